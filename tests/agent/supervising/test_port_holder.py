"""Which process listens on a port."""

import os
import socket
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from cortexd.agent.supervising.port_holder import holder_of, listening_sockets

TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:04D2 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1
   1: 0100007F:04D2 0100007F:9999 01 00000000:00000000 00:00000000 00000000  1000        0 4712 1
   2: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1
   3: garbage
"""


class PortHolderTests(SynchronousTestCase):
    def test_only_listeners_count(self) -> None:
        """A connection of the port is no listener, and other lines are left out."""
        assert {"4711"} == listening_sockets(TABLE, 1234)
        assert set() == listening_sockets(TABLE, 1235)

    def test_this_process(self) -> None:
        """The process is found by the socket that it has open."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            words = holder_of(listening.getsockname()[1])
        assert words is not None
        assert words.startswith(f"process {os.getpid()} (")

    def test_a_port_that_nobody_has(self) -> None:
        """Without a listener there is nothing to say, and without /proc neither."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
        assert holder_of(port) is None
        assert holder_of(port, Path("/nonexistent")) is None
