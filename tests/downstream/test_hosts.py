"""The names under which clients may address the gateway."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from cortexd.downstream.hosts import EVERY_HOST, MOST_REMEMBERED, Hosts

LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
PUBLIC = st.builds(
    lambda labels, end: ".".join([*labels, end]),
    st.lists(LABEL, min_size=1, max_size=3),
    st.sampled_from(["com", "example", "co.uk", "internal.com", "localhost.dev", "1e100.net"]),
)
PORT = st.sampled_from(["", ":80", ":8000"])


def asked(*values: str) -> Headers:
    return Headers({"host": list(values)})


class HostTests(SynchronousTestCase):
    """Hosts accepts addresses and names of its own, and no other name."""

    def test_addresses_and_private_names_are_accepted(self) -> None:
        """Addresses, names without a dot and private names need no entry, with any port."""
        for host in (
            *("127.0.0.1", "192.168.1.7:8000", "[::1]", "[2001:db8::1]:8000", "8.8.8.8"),
            *("localhost", "LocalHost:8000", "gpu-large", "gpu_1:8000", "localhost."),
            *("cortex.internal:8000", "box.local", "box.home.arpa", "box.lan", "a.localhost"),
            *("gateway.example.com", "GATEWAY.example.com.:8000"),
        ):
            self.assertTrue(Hosts(machine="gateway.example.com").accepts(asked(host)), host)

    def test_configured_names_are_accepted(self) -> None:
        """A name stands for itself, one with a leading dot for all names that end so."""
        hosts = Hosts(["gpu.Example.com", ".lab.example"])

        for host in ("gpu.example.com", "GPU.example.com:8000", "a.lab.example", "a.b.lab.example"):
            self.assertTrue(hosts.accepts(asked(host)), host)
        for host in ("example.com", "x.gpu.example.com", "lab.example", "evillab.example"):
            self.assertFalse(hosts.accepts(asked(host)), host)

    def test_a_request_without_host_is_accepted(self) -> None:
        """Browsers always send one, and clients of HTTP/1.0 need not."""
        self.assertTrue(Hosts().accepts(Headers()))
        self.assertTrue(Hosts().accepts(asked("")))

    def test_a_malformed_host_is_refused(self) -> None:
        """A port that is no number, no name at all, or two headers name nothing of ours."""
        for values in (("localhost:x",), (":8000",), ("[::1]x",), ("localhost", "localhost")):
            self.assertFalse(Hosts().accepts(asked(*values)), values)

    def test_any_name(self) -> None:
        """An asterisk accepts every name."""
        self.assertTrue(EVERY_HOST.accepts(asked("evil.example")))

    def test_the_memory_is_bounded(self) -> None:
        """The answer stays the same once the memory for Host headers is full."""
        hosts = Hosts()
        for number in range(2 * MOST_REMEMBERED):
            self.assertFalse(hosts.accepts(asked(f"n{number}.example")))
        self.assertTrue(hosts.accepts(asked("localhost")))
        self.assertFalse(hosts.accepts(asked("evil.example")))

    @given(name=PUBLIC, port=PORT)
    def test_no_public_name_is_accepted(self, name: str, port: str) -> None:
        """A name that a public server can resolve needs an entry, whatever its beginning."""
        self.assertFalse(Hosts(machine="gateway").accepts(asked(name + port)))
        self.assertTrue(Hosts([name.upper()]).accepts(asked(name + port)))
