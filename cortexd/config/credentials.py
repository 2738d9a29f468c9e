"""The API keys of the nodes' servers, each read from a file and sent only to its server."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from cortexd.config.files import open_regular
from cortexd.config.settings import NodeSettings
from cortexd.config.tables import ConfigError
from cortexd.text import one_line

NO_CREDENTIALS: Final[Mapping[str, str]] = MappingProxyType({})


def credentials_of(node: NodeSettings) -> Mapping[str, str]:
    """Return the headers with the API key of a node's server, none if it requires no key.

    Raises ConfigError if the file cannot be read or contains no key. The message never contains the
    key.
    """
    if node.api_key_file is None:
        return NO_CREDENTIALS
    where = f"nodes ({node.name}).api_key_file: {one_line(node.api_key_file)}"
    try:
        with open_regular(node.api_key_file) as file:
            key = file.read().decode("ascii").strip()
    except OSError as error:
        raise ConfigError(f"{where} cannot be read ({error.strerror})") from None
    except UnicodeError:
        raise ConfigError(f"{where}: found characters beyond ASCII, expected an API key") from None
    if not key or not key.isprintable() or " " in key:
        raise ConfigError(f"{where}: expected an API key on one line, without spaces")
    return node.runs.credentials(key)
