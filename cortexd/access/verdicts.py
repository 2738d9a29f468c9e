"""What was found out about the keys that clients sent, so that the hash of a key is made once."""

from __future__ import annotations

import secrets
from collections import deque
from hashlib import blake2b
from typing import Final, NamedTuple

from cortexd.access.callers import NOBODY, Caller

MOST_WRONG: Final = 4096
"""How many wrong keys are remembered; the right ones are as few as there are keys."""

DIGEST_BYTES: Final = 16


class Verdict(NamedTuple):
    """Who sends the requests with a key, and until when in unix seconds; NOBODY for a wrong key."""

    caller: Caller
    until: float | None = None


WRONG: Final = Verdict(NOBODY)


class Verdicts:
    """The verdicts on keys, by a digest with a secret of this process: no key is kept.

    Wrong keys never displace right ones, however many come.
    """

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)
        self._found: dict[bytes, Verdict] = {}
        self._wrong: deque[bytes] = deque()

    def digest(self, key: str) -> bytes:
        """Return the digest of a key's text."""
        return blake2b(key.encode(), key=self._secret, digest_size=DIGEST_BYTES).digest()

    def find(self, digest: bytes) -> Verdict | None:
        """Return the verdict on the key with a digest, ``None`` where there is none yet."""
        return self._found.get(digest)

    def learn(self, digest: bytes, verdict: Verdict) -> None:
        """Take the verdict on a key, which was not known before."""
        self._found[digest] = verdict
        if verdict is WRONG:
            self._wrong.append(digest)
            if len(self._wrong) > MOST_WRONG:
                del self._found[self._wrong.popleft()]

    def forget(self) -> None:
        """Forget all verdicts: the keys are others now."""
        self._found.clear()
        self._wrong.clear()
