"""The network between two hosts that the tests of agents cut."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

import pytest

from tests.live.agent.links import Link, link_to
from tests.live.agent.machines import loopback_address
from tests.live.daemons import ANSWER_SECONDS, eventually

SILENCE_SECONDS = 0.3


class Ends(NamedTuple):
    """A link, a connection through it, and the server at its far end."""

    link: Link
    near: socket.socket
    far: socket.socket
    server: socket.socket


@pytest.fixture(name="ends")
def _ends() -> Iterator[Ends]:
    with (
        socket.create_server(loopback_address()) as server,
        link_to(server.getsockname()[:2]) as link,
        closing(socket.create_connection(link.address, ANSWER_SECONDS)) as near,
    ):
        server.settimeout(ANSWER_SECONDS)
        far, _ = server.accept()
        far.settimeout(ANSWER_SECONDS)
        with far:
            yield Ends(link, near, far, server)


def test_a_link_passes_bytes_and_ends_on(ends: Ends) -> None:
    """Both ways, and the end of one side reaches the other."""
    _, near, far, _ = ends
    near.sendall(b"hi")
    assert b"hi" == far.recv(10)
    far.sendall(b"ho")
    assert b"ho" == near.recv(10)
    near.close()
    assert b"" == far.recv(10)


def test_a_cut_link_is_silent_and_keeps_all(
    ends: Ends,
) -> None:
    """While it is cut neither bytes nor an end arrive; joined again, they do."""
    link, near, far, _ = ends
    link.cut()
    near.sendall(b"late")
    near.close()
    far.settimeout(SILENCE_SECONDS)
    with pytest.raises(TimeoutError):
        far.recv(10)
    far.settimeout(ANSWER_SECONDS)
    link.join()
    assert (b"late", b"") == (far.recv(10), far.recv(10))


def test_connections_that_come_while_a_link_is_cut_wait(
    ends: Ends,
) -> None:
    """They are neither refused nor lost."""
    link, _, _, server = ends
    link.cut()
    with closing(socket.create_connection(link.address, ANSWER_SECONDS)) as late:
        late.sendall(b"hello")
        eventually(lambda: link.connections == 2, "a second connection")
        server.settimeout(SILENCE_SECONDS)
        with pytest.raises(TimeoutError):
            server.accept()
        server.settimeout(ANSWER_SECONDS)
        link.join()
        other, _ = server.accept()
        with other:
            other.settimeout(ANSWER_SECONDS)
            assert b"hello" == other.recv(10)
