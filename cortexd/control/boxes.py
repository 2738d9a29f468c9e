"""Reads AMP's boxes from a blocking socket, before the reactor has it."""

from __future__ import annotations

import socket

from twisted.protocols import amp


def read_box(connection: socket.socket) -> amp.AmpBox:
    """Read one box. Raises EOFError if the other end has closed the connection."""
    box = amp.AmpBox()
    while length := int.from_bytes(_read(connection, 2)):
        key = _read(connection, length)
        box[key] = _read(connection, int.from_bytes(_read(connection, 2)))
    return box


def _read(connection: socket.socket, length: int) -> bytes:
    """Read exactly so many bytes: what follows is for the reactor, so no buffer may take it."""
    data = b""
    while len(data) < length:
        piece = connection.recv(length - len(data))
        if not piece:
            raise EOFError("it has closed the connection")
        data += piece
    return data
