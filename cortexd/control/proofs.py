"""The right keys that came to an old daemon, in the boxes that it sends to its successor.

They go over the control socket alone, between two processes of one user, and into no log and no
file. Whoever read them would learn no key: a key's secret is too long to be guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cortexd.access.verdicts import DIGEST_BYTES, Proven

SECRET: Final = b"secret"
PROVEN: Final = b"proven"
"""The keys of the secret and of a page, in boxes before the answer to HandOver. Earlier versions
neither send nor read them.
"""

MOST: Final = 1_500
"""How many right keys a box has at most: a value of AMP has 65,535 bytes."""


def proven_pages(proven: Proven) -> list[dict[bytes, bytes]]:
    """Return the right keys as parts of boxes, each with the secret."""
    digests = [digest + fingerprint for digest, fingerprint in proven.keys]
    pages = [b"".join(digests[begin : begin + MOST]) for begin in range(0, len(digests), MOST)]
    return [{SECRET: proven.secret, PROVEN: page} for page in pages]


def read_page(before: Proven | None, box: Mapping[bytes, bytes]) -> Proven | None:
    """Return what the boxes have so far: what came ``before``, and a page if this box has one."""
    if PROVEN not in box:
        return before
    page, size = box[PROVEN], 2 * DIGEST_BYTES
    found = tuple(
        (page[begin : begin + DIGEST_BYTES], page[begin + DIGEST_BYTES : begin + size])
        for begin in range(0, len(page), size)
    )
    return Proven(box[SECRET], found if before is None else before.keys + found)
