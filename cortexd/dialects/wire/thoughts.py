"""Signatures of thinking: ours, and those that carry thinking which the client did not want to see.

A client that requests thinking with ``display: "omitted"`` gets blocks of thinking without text. It
sends them back with the conversation, as they are, and the model continues from its thoughts. So
the signature of such a block carries the text. It is packed, not encrypted: the client may read it.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import Final

SIGNATURE: Final = "cortex"
"""Replaces Anthropic's signature of thinking. Claude Code sends it back with the next turn
(translation.md 1.2.9)."""

MAX_BYTES: Final = 4 * 1024 * 1024
"""How much text a signature may carry: a small one could unpack to gigabytes."""

_SEAL: Final = f"{SIGNATURE}."


def signature_of(thinking: str) -> str:
    """Return the signature that carries a text; an empty text needs none."""
    if not thinking:
        return SIGNATURE
    packed = zlib.compress(thinking.encode("utf-8", "replace"))
    return _SEAL + base64.urlsafe_b64encode(packed).decode("ascii")


def is_ours(signature: object) -> bool:
    """Return whether a signature is one of ours, or none at all."""
    return signature in (None, "", SIGNATURE) or (
        isinstance(signature, str) and signature.startswith(_SEAL)
    )


def thinking_in(signature: object) -> str:
    """Return the text that a signature carries: empty for one of others, or a damaged one."""
    if not isinstance(signature, str) or not signature.startswith(_SEAL):
        return ""
    try:
        packed = base64.b64decode(signature[len(_SEAL) :], altchars=b"-_", validate=True)
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(packed, MAX_BYTES)
        return text.decode("utf-8") if unpacker.eof else ""
    except (binascii.Error, zlib.error, ValueError):
        return ""
