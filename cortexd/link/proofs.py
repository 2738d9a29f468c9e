"""Proofs that an agent has its node's token: pure.

The gateway sends a nonce, and the agent answers with an HMAC-SHA256 of it. The proof holds for one
nonce, one node and one TLS connection (RFC 5705: keying material that both ends of the connection
know, and nobody else). Recorded or passed on, it is worth nothing elsewhere. The gateway keeps a
key that the token gives, and not the token.

A gateway should send a nonce for every node, also for one without a token, and refuse the proof:
then its answers do not tell which nodes have one.
"""

from __future__ import annotations

import hmac
import re
import secrets
import string
from typing import Final

EXPORTER_LABEL: Final = b"EXPORTER-cortexd-agent"
EXPORTER_BYTES: Final = 32
NONCE_BYTES: Final = 32
PROOF_BYTES: Final = 32
KEY_BYTES: Final = 32

PREFIX: Final = "sk-cortex-agent-"
_SECRET_LENGTH: Final = 43
_LETTERS: Final = string.ascii_letters + string.digits
_TOKEN: Final = re.compile(rf"{PREFIX}[A-Za-z0-9]{{{_SECRET_LENGTH}}}")


def new_token() -> str:
    """Return a new token, with 256 random bits."""
    return PREFIX + "".join(secrets.choice(_LETTERS) for _ in range(_SECRET_LENGTH))


def is_token(text: str) -> bool:
    """Whether a text has the form of a token."""
    return _TOKEN.fullmatch(text) is not None


def key_of(token: str, node: str) -> bytes:
    """Return the key that a token gives for a node: another node has another one."""
    return _hmac(token.encode(), b"cortexd agent key", node.encode())


def new_nonce() -> bytes:
    """Return a nonce for one connection."""
    return secrets.token_bytes(NONCE_BYTES)


def proof(key: bytes, nonce: bytes, node: str, exporter: bytes) -> bytes:
    """Return the proof for a nonce, a node, and the exporter bytes of one TLS connection.

    Raises ValueError for an empty nonce, or for exporter bytes of another length.
    """
    if not nonce or len(exporter) != EXPORTER_BYTES:
        raise ValueError("a proof needs a nonce, and the exporter bytes of a TLS connection")
    return _hmac(key, b"cortexd agent proof", nonce, node.encode(), exporter)


def is_proof(found: bytes, key: bytes | None, nonce: bytes, node: str, exporter: bytes) -> bool:
    """Whether a proof holds. It takes as long for a wrong one, and without a key, as for a right.

    Raises ValueError as ``proof`` does.
    """
    wanted = proof(key or secrets.token_bytes(KEY_BYTES), nonce, node, exporter)
    return hmac.compare_digest(found, wanted) and key is not None


def _hmac(key: bytes, *parts: bytes) -> bytes:
    """Return the HMAC of some parts, each after its length, so that none runs into the next."""
    framed = b"".join(len(part).to_bytes(4) + part for part in parts)
    return hmac.digest(key, framed, "sha256")
