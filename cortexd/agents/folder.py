"""The folder ``agents`` in the state directory: enrolments, our own authority, certificates.

Each method waits for files, so that a thread calls it. A file is replaced at once or not at all.
The folder is for its owner only (0700), and so is each file (0600). Nothing here is shown with a
key. Times are in unix seconds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from cryptography import x509

from cortexd.config.agents_file import AgentsTable, read
from cortexd.config.files import open_regular
from cortexd.config.tables import ConfigError, decoded, unreadable
from cortexd.config.tables_text import UnknownFormError
from cortexd.errors import OperationRefused
from cortexd.link.certificates import (
    Authority,
    AuthorityError,
    Pair,
    authority_of,
    gateway_pair,
    loaded,
    must_renew,
    new_authority,
)
from cortexd.store.replacing import read_original, replace
from cortexd.text import one_line

TABLE: Final = "agents.toml"
AUTHORITY: Final = ("ca.pem", "ca-key.pem")
GATEWAY: Final = ("gateway.pem", "gateway-key.pem")

FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600
TRIES: Final = 5
"""How often the enrolments are read again that others change at the same time."""

UNKNOWN_FORM: Final = "it has tables of another form than [[agents]] and [[revoked]]: write them so"
ANEW: Final = (
    "restore ca.pem and ca-key.pem from a backup; or remove both and enrol every agent anew"
)


class Folder:
    """The folder at ``path``, which need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path

    # The enrolments.

    def table(self) -> AgentsTable:
        """Return the enrolments. Raises ConfigError for a file that cannot be used."""
        source = str(self.path / TABLE)
        try:
            with open_regular(source) as file:
                content = file.read()
        except FileNotFoundError:
            return AgentsTable()
        except OSError as error:
            raise unreadable(source, error) from None
        return read(decoded(content, source), source)

    def change(self, edit: Callable[[str, AgentsTable], tuple[str, AgentsTable]]) -> AgentsTable:
        """Change the enrolments and return them.

        ``edit`` gets the text and its tables, and returns those of the new text, in any order.
        Raises OperationRefused; then the file is as it was.
        """
        path = self.path / TABLE
        source = one_line(str(path))
        try:
            self._make()
            for _ in range(TRIES):
                original = dataclasses.replace(read_original(str(path)), mode=FILE_MODE)
                text = decoded(original.content, str(path))
                new, wanted = edit(text, read(text, str(path)))
                found = read(new, str(path))
                if not _are_equal(found, wanted):
                    raise UnknownFormError
                if replace(original, new.encode()):
                    return found
        except ConfigError as error:
            raise OperationRefused(f"{error}; nothing was changed") from None
        except UnknownFormError:
            raise OperationRefused(f"{source}: {UNKNOWN_FORM}; nothing was changed") from None
        except OSError as error:
            raise OperationRefused(f"{source} cannot be changed ({_reason(error)})") from None
        raise OperationRefused(f"{source} is being changed by another program: try again")

    # The authority.

    def authority(self, now: float) -> Authority:
        """Return our own authority, and make it if there is none yet.

        Raises OperationRefused if it is damaged, or cannot be made. A new one never replaces one
        that may have admitted agents.
        """
        certificate, key = (self.path / name for name in AUTHORITY)
        try:
            if certificate.exists():
                pair = Pair(_text(certificate), _text(key))
            elif key.exists() and any(each.serial for each in self.table().agents):
                raise AuthorityError("the certificate is missing")
            else:
                pair = new_authority(now)
                # First the key: without the certificate there is no authority yet.
                self._write(key, pair.key)
                self._write(certificate, pair.certificate)
            return authority_of(pair)
        except (AuthorityError, ConfigError) as error:
            raise OperationRefused(f"{one_line(str(certificate))}: {error}: {ANEW}") from None
        except FileNotFoundError:
            raise OperationRefused(f"{one_line(str(key))} is missing: {ANEW}") from None
        except OSError as error:
            raise OperationRefused(
                f"{one_line(str(certificate))} cannot be read or made ({_reason(error)})"
            ) from None

    def gateway(
        self, authority: Authority, names: Sequence[str], now: float
    ) -> tuple[Pair, str | None]:
        """Return the gateway's certificate and its key, and make them anew if it is time.

        Beside them comes why the new ones could not be written, in words: then the old ones, or
        ones in memory alone, are returned.
        """
        places = [self.path / name for name in GATEWAY]
        try:
            pair = Pair(*map(_text, places))
            certificate, _ = loaded(pair)
            if not must_renew(certificate, authority, names, now):
                return pair, None
            is_valid = _is_valid(certificate, authority, names, now)
        except (OSError, AuthorityError):
            is_valid = False
        new = gateway_pair(authority, names, now)
        try:
            # First the key: one that does not fit its certificate makes both anew.
            self._write(places[1], new.key)
            self._write(places[0], new.certificate)
        except OSError as error:
            words = f"{one_line(str(places[0]))} cannot be written ({_reason(error)})"
            return (pair if is_valid else new), words
        return new, None

    # The files.

    def _make(self) -> None:
        """Make the folder, or keep others out of it."""
        self.path.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
        if self.path.stat().st_mode & 0o077:
            self.path.chmod(FOLDER_MODE)

    def _write(self, path: Path, text: str) -> None:
        """Replace a file. Raises OSError."""
        self._make()
        original = dataclasses.replace(read_original(str(path)), mode=FILE_MODE)
        if not replace(original, text.encode()):
            raise OSError("another program changes it")


def _text(path: Path) -> str:
    with open_regular(path) as file:
        return file.read().decode("ascii", "replace")


def _is_valid(
    certificate: x509.Certificate, authority: Authority, names: Sequence[str], now: float
) -> bool:
    """Whether a certificate that should be renewed still serves."""
    begin = certificate.not_valid_before_utc.timestamp()
    is_in_time = begin <= now < certificate.not_valid_after_utc.timestamp()
    return is_in_time and not must_renew(certificate, authority, names, begin)


def _are_equal(one: AgentsTable, other: AgentsTable) -> bool:
    return all(
        {each.node: each for each in getattr(one, name)}
        == {each.node: each for each in getattr(other, name)}
        for name in AgentsTable.__struct_fields__
    )


def _reason(error: OSError) -> str:
    return one_line(error.strerror or str(error))
