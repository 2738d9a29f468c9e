"""Which process has the engine's port, in words."""

import os
import socket

from twisted.trial.unittest import SynchronousTestCase

from cortexd.agent.supervising.port_holder import holder_of


class PortHolderTests(SynchronousTestCase):
    def test_this_process(self) -> None:
        """It has its number and its name; at another address nobody has the port."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            words = holder_of("127.0.0.1", listening.getsockname()[1])
            other = holder_of("127.0.0.2", listening.getsockname()[1])
        assert other is None
        assert words is not None
        assert words.startswith(f"process {os.getpid()} (")

    def test_a_port_that_nobody_has(self) -> None:
        """Without a listener there is nothing to say, and without /proc neither."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
        assert holder_of("127.0.0.1", port) is None
        assert holder_of(None, port, "/nonexistent") is None
