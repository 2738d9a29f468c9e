"""The API keys of the nodes' servers, each read from a file and sent only to its server."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from cortexd.config.files import open_regular
from cortexd.config.tables import ConfigError
from cortexd.engines.engine import Engine
from cortexd.text import one_line

if TYPE_CHECKING:  # The agent beside an engine reads a key too, and needs no settings of nodes.
    from cortexd.config.settings import NodeSettings

NO_CREDENTIALS: Final[Mapping[str, str]] = MappingProxyType({})


def credentials_of(node: NodeSettings) -> Mapping[str, str]:
    """Return the headers with the API key of a node's server, none if it requires no key.

    Raises ConfigError if the file cannot be read or contains no key. The message never contains the
    key.
    """
    where = f"nodes ({node.name}).api_key_file"
    return headers_of(node.runs, node.api_key_file, where)


def headers_of(engine: Engine, path: str | None, key: str) -> Mapping[str, str]:
    """Return the headers with the API key in a file, for a server of an engine.

    ``key`` is the key of the configuration that names the file, for the ConfigError.
    """
    if path is None:
        return NO_CREDENTIALS
    where = f"{key}: {one_line(path)}"
    try:
        with open_regular(path) as file:
            found = file.read().decode("ascii").strip()
    except OSError as error:
        raise ConfigError(f"{where} cannot be read ({error.strerror})") from None
    except UnicodeError:
        raise ConfigError(f"{where}: found characters beyond ASCII, expected an API key") from None
    if not found or not found.isprintable() or " " in found:
        raise ConfigError(f"{where}: expected an API key on one line, without spaces")
    return engine.credentials(found)
