"""What was found out about the keys that clients sent, so that the hash of a key is made once."""

from __future__ import annotations

import secrets
from collections import deque
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, NamedTuple

from cortexd.access.callers import NOBODY, Caller
from cortexd.access.ring import KeyRing

MOST_WRONG: Final = 4096
"""How many wrong keys are remembered; the right ones are as few as there are keys."""

DIGEST_BYTES: Final = 16
SECRET_BYTES: Final = 32

ENTRY: Final = b"entry of a key"
"""Keeps the fingerprints of entries apart from the digests of keys."""


class Verdict(NamedTuple):
    """What is known of a key that came: ``caller`` is NOBODY for a wrong one.

    ``hash`` is the one that it has. It is valid until ``until`` in unix seconds, and ``is_former``
    says whether the key was rotated since.
    """

    caller: Caller
    id: str = ""
    hash: str = ""
    until: float | None = None
    is_former: bool = False


WRONG: Final = Verdict(NOBODY)


def verdict_on(key_id: str, key_hash: str, ring: KeyRing) -> Verdict:
    """Return the verdict on a key with an id and a hash: the ring may lack it, or have another."""
    found = ring.find(key_id)
    if found is None or found[1] != key_hash:
        return WRONG
    key, _, until = found
    return Verdict(ring.caller(key.name), key_id, key_hash, until, key_id != key.id)


@dataclass(frozen=True, slots=True)
class Proven:
    """The right keys that came, for the next process; it has neither keys nor their hashes.

    ``secret`` is the one of the digests. ``keys`` has for each key its digest, and a fingerprint of
    its id and its hash, both of DIGEST_BYTES.
    """

    secret: bytes = field(repr=False)
    keys: tuple[tuple[bytes, bytes], ...] = field(repr=False)


class Verdicts:
    """The verdicts on keys, by a digest with a random secret: no key is kept.

    Wrong keys never displace right ones, however many come.
    """

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(SECRET_BYTES)
        self._begun = blake2b(key=self._secret, digest_size=DIGEST_BYTES)
        self._found: dict[bytes, Verdict] = {}
        self._wrong: deque[bytes] = deque()

    def digest(self, key: bytes) -> bytes:
        """Return the digest of a key's text."""
        digest = self._begun.copy()
        digest.update(key)
        return digest.digest()

    def find(self, digest: bytes) -> Verdict | None:
        """Return the verdict on the key with a digest, ``None`` where there is none yet."""
        return self._found.get(digest)

    def learn(self, digest: bytes, verdict: Verdict) -> None:
        """Take the verdict on the key with a digest."""
        if verdict is WRONG and digest not in self._found:
            self._wrong.append(digest)
            if len(self._wrong) > MOST_WRONG:
                self._found.pop(self._wrong.popleft(), None)
        self._found[digest] = verdict

    def follow(self, ring: KeyRing) -> None:
        """Forget all that other keys make wrong: keys that are as they were stay right."""
        before = self._found
        self._wrong.clear()
        self._found = {
            digest: verdict
            for digest, old in before.items()
            if old is not WRONG and (verdict := verdict_on(old.id, old.hash, ring)) is not WRONG
        }

    def proven(self) -> Proven:
        """Return the verdicts on right keys, for the process after this one."""
        right = [(digest, each) for digest, each in self._found.items() if each is not WRONG]
        return Proven(
            self._secret,
            tuple((digest, self._fingerprint(each.id, each.hash)) for digest, each in right),
        )

    def adopt(self, proven: Proven, ring: KeyRing) -> None:
        """Begin anew with the verdicts of the process before this one.

        A key is right only if the ring has the same entry, with the same id and hash.
        """
        self._secret = proven.secret
        self._begun = blake2b(key=self._secret, digest_size=DIGEST_BYTES)
        self._wrong.clear()
        entries = {self._fingerprint(*entry): entry for entry in ring.entries}
        self._found = {
            digest: verdict_on(*entries[fingerprint], ring)
            for digest, fingerprint in proven.keys
            if fingerprint in entries
        }

    def _fingerprint(self, key_id: str, key_hash: str) -> bytes:
        text = f"{key_id} {key_hash}".encode()
        return blake2b(text, key=self._secret, digest_size=DIGEST_BYTES, person=ENTRY).digest()
