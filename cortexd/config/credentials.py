"""The keys that servers behind us want: read from files of their own, and told to nobody else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from cortexd.config.addresses import one_line
from cortexd.config.reading import ConfigError
from cortexd.config.settings import NodeSettings

NO_CREDENTIALS: Final[Mapping[str, str]] = MappingProxyType({})


def credentials_of(node: NodeSettings) -> Mapping[str, str]:
    """Return the headers by which a node's server knows us, none where it wants no key.

    Anthropic's dialect has the key in a header of its own, OpenAI's as a bearer's.
    Raises ConfigError where the file cannot be read or holds no key; its words never have the key.
    """
    if node.api_key_file is None:
        return NO_CREDENTIALS
    where = f"nodes ({node.name}).api_key_file: {one_line(node.api_key_file)}"
    try:
        key = Path(node.api_key_file).read_text("ascii").strip()
    except OSError as error:
        raise ConfigError(f"{where} cannot be read ({error.strerror})") from None
    except UnicodeError:
        raise ConfigError(f"{where} is no key: it has characters beyond ASCII") from None
    if not key or not key.isprintable() or " " in key:
        raise ConfigError(f"{where} is no key: expected one line without spaces")
    if node.speaks_messages_alone:
        return {"X-Api-Key": key}
    return {"Authorization": f"Bearer {key}"}
