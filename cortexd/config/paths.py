"""The default paths of the daemon's files, and where its client looks for them.

Pure functions of the environment and the user id. The directories that systemd gives a unit come
first (STATE_DIRECTORY, RUNTIME_DIRECTORY: systemd.exec(5)). Without them, root uses the system's
directories and other users those of the XDG Base Directory Specification, which requires that a
relative path in one of its variables is ignored.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

ROOT_UID: Final = 0
SOCKET_NAME: Final = "control.sock"
SYSTEM_CONFIG: Final = Path("/etc/cortex/cortex.toml")
SYSTEM_SOCKET: Final = Path("/run/cortex", SOCKET_NAME)
SYSTEM_STATE: Final = Path("/var/lib/cortex")


class NoHomeError(Exception):
    """Raised when the environment names no directory of the user."""


def state_dir(environ: Mapping[str, str], uid: int) -> Path:
    """Return the directory for data that survives a restart; it need not exist yet.

    Raises NoHomeError if the user is not root and none of STATE_DIRECTORY, XDG_STATE_HOME and HOME
    contains an absolute path.
    """
    if from_systemd := _from_systemd(environ, "STATE_DIRECTORY"):
        return from_systemd
    if uid == ROOT_UID:
        return SYSTEM_STATE
    own = _own_directory(environ, "XDG_STATE_HOME", ".local/state")
    if own is None:
        raise NoHomeError(
            "the daemon has no directory for its state: none of STATE_DIRECTORY, XDG_STATE_HOME "
            "and HOME contains an absolute path; set one of them, or gateway.state_dir in the "
            "configuration"
        )
    return own


def control_socket(environ: Mapping[str, str], uid: int) -> Path:
    """Return the default path of the control socket; raises NoHomeError as `state_dir` does.

    Without a runtime directory it is in the state directory, because no other directory is sure to
    belong to the user.
    """
    if from_systemd := _from_systemd(environ, "RUNTIME_DIRECTORY"):
        return from_systemd / SOCKET_NAME
    if uid == ROOT_UID:
        return SYSTEM_SOCKET
    runtime = _absolute(environ.get("XDG_RUNTIME_DIR"))
    return (runtime / "cortex" if runtime else state_dir(environ, uid)) / SOCKET_NAME


def socket_candidates(environ: Mapping[str, str], uid: int) -> tuple[Path, ...]:
    """Return the paths where a client looks for the daemon, in order; at least one.

    If CORTEX_SOCKET is set, it is the only path. Otherwise the user's daemon comes before the
    system's.
    """
    if chosen := environ.get("CORTEX_SOCKET"):
        return (Path(chosen),)
    try:
        own = control_socket(environ, uid)
    except NoHomeError:
        return (SYSTEM_SOCKET,)
    return (own, SYSTEM_SOCKET) if own != SYSTEM_SOCKET else (SYSTEM_SOCKET,)


def config_candidates(environ: Mapping[str, str], uid: int) -> tuple[Path, ...]:
    """Return the possible paths of the configuration, in order; at least one."""
    own = _own_directory(environ, "XDG_CONFIG_HOME", ".config")
    if own is None:
        return (SYSTEM_CONFIG,)
    own_config = own / SYSTEM_CONFIG.name
    return (SYSTEM_CONFIG, own_config) if uid == ROOT_UID else (own_config, SYSTEM_CONFIG)


def _from_systemd(environ: Mapping[str, str], variable: str) -> Path | None:
    """Return the first directory of a unit; systemd joins several directories by colons."""
    return _absolute(environ.get(variable, "").partition(":")[0])


def _own_directory(environ: Mapping[str, str], variable: str, below_home: str) -> Path | None:
    """Return the user's directory for cortex under an XDG variable, or else under HOME."""
    base = _absolute(environ.get(variable))
    if base is None and (home := _absolute(environ.get("HOME"))):
        base = home / below_home
    return base and base / "cortex"


def _absolute(text: str | None) -> Path | None:
    return Path(text) if text and text.startswith("/") else None
