"""The text of a key, and its hash: the keys file has the hash alone.

A key is ``sk-cortex-ID-SECRET``. The ID finds the key's entry, so that one hash is enough to tell
whether the key is right. The secret has 256 random bits. The hash is scrypt (RFC 7914) in the PHC
string format, ``$scrypt$ln=14,r=8,p=1$SALT$HASH``, each part in base64 without padding.
"""

from __future__ import annotations

import hmac
import re
import secrets
import string
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import scrypt
from typing import Final

LETTERS: Final = string.ascii_letters + string.digits
ID_LETTERS: Final = string.ascii_lowercase + string.digits
ID_LENGTH: Final = 12
SECRET_LENGTH: Final = 43
KEY_LENGTH: Final = len("sk-cortex-") + ID_LENGTH + 1 + SECRET_LENGTH
SALT_BYTES: Final = 16
HASH_BYTES: Final = 32

_KEY: Final = re.compile(rf"sk-cortex-([a-z0-9]{{{ID_LENGTH}}})-[A-Za-z0-9]{{{SECRET_LENGTH}}}")
_HASH: Final = re.compile(
    r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d{1,2})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)"
)
_MOST_MEMORY: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Hash:
    """A hash and its terms; ``cost`` is the logarithm of scrypt's N."""

    cost: int
    block: int
    lanes: int
    salt: bytes
    digest: bytes

    @property
    def terms(self) -> str:
        """The terms as in the PHC string format."""
        return f"ln={self.cost},r={self.block},p={self.lanes}"

    @property
    def memory(self) -> int:
        """How many bytes of memory scrypt needs."""
        return 128 * self.block * ((1 << self.cost) + self.lanes + 2)

    def of(self, text: str) -> bytes:
        """Return the digest of a text on the same terms."""
        return scrypt(
            text.encode(),
            salt=self.salt,
            n=1 << self.cost,
            r=self.block,
            p=self.lanes,
            maxmem=self.memory + 1024,
            dklen=len(self.digest),
        )


def new_key() -> str:
    """Return the text of a new key."""
    found = "".join(secrets.choice(ID_LETTERS) for _ in range(ID_LENGTH))
    return f"sk-cortex-{found}-{''.join(secrets.choice(LETTERS) for _ in range(SECRET_LENGTH))}"


def id_of(text: str) -> str | None:
    """Return the id in the text of a key, ``None`` for a text that cannot be one."""
    found = _KEY.fullmatch(text)
    return None if found is None else found[1]


def hashed(text: str, cost: int = 14) -> str:
    """Return the hash of a key, with a new salt.

    With the default ``cost`` it takes some 50 ms and 16 MiB; other threads run meanwhile.
    """
    salt = secrets.token_bytes(SALT_BYTES)
    digest = _Hash(cost, 8, 1, salt, bytes(HASH_BYTES)).of(text)
    return f"$scrypt$ln={cost},r=8,p=1${_encoded(salt)}${_encoded(digest)}"


def is_hash(text: str) -> bool:
    """Whether a text is a hash that ``matches`` can take."""
    return _parsed(text) is not None


def decoy(others: Iterable[str] = ()) -> str:
    """Return the hash of no key, which takes as long to compare as the dearest of ``others``."""
    dearest = max(filter(None, map(_parsed, others)), key=lambda each: each.memory, default=None)
    terms = "ln=14,r=8,p=1" if dearest is None else dearest.terms
    salt, digest = secrets.token_bytes(SALT_BYTES), secrets.token_bytes(HASH_BYTES)
    return f"$scrypt${terms}${_encoded(salt)}${_encoded(digest)}"


def matches(text: str, key_hash: str) -> bool:
    """Whether a key has this hash. It takes as long for a wrong key as for the right one.

    Raises ValueError for what is no hash.
    """
    wanted = _parsed(key_hash)
    if wanted is None:
        raise ValueError("not a hash of scrypt in the PHC string format")
    return hmac.compare_digest(wanted.of(text), wanted.digest)


def _parsed(text: str) -> _Hash | None:
    found = _HASH.fullmatch(text)
    if found is None:
        return None
    cost, block, lanes = int(found[1]), int(found[2]), int(found[3])
    try:
        wanted = _Hash(cost, block, lanes, _decoded(found[4]), _decoded(found[5]))
    except ValueError:
        return None
    is_usual = 1 <= cost <= 20 and block and 1 <= lanes <= 4 and len(wanted.digest) >= SALT_BYTES
    return wanted if is_usual and wanted.memory <= _MOST_MEMORY else None


def _encoded(data: bytes) -> str:
    return b64encode(data).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    return b64decode(text + "=" * (-len(text) % 4), validate=True)
