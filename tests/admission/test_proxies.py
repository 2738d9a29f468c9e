"""Proxies: which peers are trusted, and which address in X-Forwarded-For is the client's."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.admission.proxies import MOST_HOPS, MOST_REMEMBERED, UNIX, Proxies, host_text

LOOPBACK = ["127.0.0.1", "::1", "10.0.0.0/8", "2001:db8::/32"]
OUTSIDE = st.one_of(st.ip_addresses(network="203.0.113.0/24"), st.ip_addresses(network="fd00::/16"))
INSIDE = st.one_of(st.ip_addresses(network="10.0.0.0/8"), st.ip_addresses(network="2001:db8::/32"))
GARBAGE = st.one_of(
    st.text("ghijk_-\"'<;=\0é", max_size=20),
    st.sampled_from(
        [
            "",
            "unknown",
            "_hidden",
            "unix",
            "gpu.example.com",
            "1.2.3",
            "1.2.3.4:",
            "1.2.3.4:x",
            "01.2.3.4",
        ]
    ),
    st.sampled_from(
        ["[::1", "[::1]x", "[1.2.3.4]", "[::1]:", "fe80::1%eth0", '"1.2.3.4"', "٣.2.3.4"]
    ),
)


def written(address: ipaddress.IPv4Address | ipaddress.IPv6Address, form: int) -> str:
    """Return an address as one of the proxies of this world writes it."""
    if address.version == 4:
        return [str(address), f"{address}:50000", f" {address}\t", f"::ffff:{address}"][form]
    return [str(address), f"[{address}]", f"[{address}]:50000", f" {address.exploded} "][form]


ENTRY = st.integers(0, 3)


class TrustTests(SynchronousTestCase):
    def test_addresses_networks_and_unix(self) -> None:
        """A peer is trusted by its address, its network, or as one over a UNIX socket."""
        proxies = Proxies(["127.0.0.1", "10.0.0.0/8", "::1", "fe80::/10"])
        for host in ("127.0.0.1", "10.1.2.3", "::1", "fe80::1%eth0", "::ffff:10.1.2.3"):
            self.assertTrue(proxies.trusts(host), host)
        for host in ("127.0.0.2", "11.0.0.1", "::2", UNIX, "", "gpu.example.com"):
            self.assertFalse(proxies.trusts(host), host)
        self.assertTrue(Proxies([UNIX]).trusts(UNIX))
        self.assertFalse(Proxies().trusts("127.0.0.1"))

    def test_the_memory_is_bounded(self) -> None:
        """The answer stays the same once the memory for peers is full."""
        proxies = Proxies(["10.0.0.1"])
        for number in range(2 * MOST_REMEMBERED):
            self.assertFalse(proxies.trusts(f"192.0.{number // 250}.{number % 250}"))
        self.assertTrue(proxies.trusts("10.0.0.1"))

    def test_mapped_addresses(self) -> None:
        """A listener for IPv6 that takes IPv4 too shows the client as any other listener does."""
        self.assertEqual("10.0.0.7", host_text("::ffff:10.0.0.7"))
        for host in ("10.0.0.7", "::1", UNIX, "::ffff:zz"):
            self.assertEqual(host, host_text(host))


class ClientTests(SynchronousTestCase):
    def test_the_last_address_that_is_no_proxy(self) -> None:
        """Entries before it are words of the client, in whatever form."""
        proxies = Proxies(LOOPBACK)
        for forwarded, client in (
            ("203.0.113.7", "203.0.113.7"),
            ("198.51.100.1, 203.0.113.7", "203.0.113.7"),
            ("203.0.113.7, 10.0.0.9", "203.0.113.7"),
            ("<script>, 203.0.113.7 , 10.0.0.9:4711,[2001:db8::1]:80", "203.0.113.7"),
            ("FD00:0::7", "fd00::7"),
            ("10.0.0.7, 10.0.0.9", "10.0.0.7"),  # a client inside, by way of two proxies
            ("203.0.113.7, unknown", "127.0.0.1"),
            ("203.0.113.7, unknown, 10.0.0.9", "10.0.0.9"),
            ("203.0.113.7,", "127.0.0.1"),
            ("", "127.0.0.1"),
        ):
            self.assertEqual(client, proxies.client("127.0.0.1", forwarded), forwarded)

    def test_hundreds_of_entries(self) -> None:
        """A chain of proxies that does not end costs no more than MOST_HOPS entries."""
        forwarded = ",".join(["203.0.113.7", *(f"10.0.{n // 250}.{n % 250}" for n in range(5000))])
        client = Proxies(LOOPBACK).client("127.0.0.1", forwarded)
        number = 5000 - MOST_HOPS
        self.assertEqual(f"10.0.{number // 250}.{number % 250}", client)

    def test_the_memory_for_entries_is_bounded(self) -> None:
        """The answers stay the same beyond it, however long an entry is."""
        proxies = Proxies(LOOPBACK)
        for number in range(2 * MOST_REMEMBERED + 1):
            client = f"203.0.{number // 250}.{number % 250}"
            self.assertEqual(client, proxies.client("127.0.0.1", f"{'x' * 99}, {client}"))
            self.assertEqual("127.0.0.1", proxies.client("127.0.0.1", f"x{number}"))
        assert len(proxies._hops) <= MOST_REMEMBERED

    @given(peer=OUTSIDE, forwarded=st.text())
    def test_nobody_else_is_believed(
        self, peer: ipaddress.IPv4Address | ipaddress.IPv6Address, forwarded: str
    ) -> None:
        """A peer that is no trusted proxy is the client itself."""
        self.assertEqual(str(peer), Proxies(LOOPBACK).client(str(peer), forwarded))

    @given(
        words=st.lists(st.one_of(GARBAGE, st.builds(written, OUTSIDE, ENTRY)), max_size=4),
        client=OUTSIDE,
        form=ENTRY,
        hops=st.lists(st.builds(written, INSIDE, ENTRY), max_size=MOST_HOPS - 1),
    )
    def test_what_the_proxies_wrote(
        self,
        words: list[str],
        client: ipaddress.IPv4Address | ipaddress.IPv6Address,
        form: int,
        hops: list[str],
    ) -> None:
        """The client is found behind any chain of proxies, whatever it wrote itself."""
        forwarded = ",".join([*words, written(client, form), *hops])
        self.assertEqual(str(client), Proxies(LOOPBACK).client("::1", forwarded))

    @given(
        words=st.lists(st.builds(written, OUTSIDE, ENTRY), max_size=3),
        hidden=GARBAGE,
        hops=st.lists(INSIDE, max_size=5),
    )
    def test_a_hidden_client(
        self,
        words: list[str],
        hidden: str,
        hops: list[ipaddress.IPv4Address | ipaddress.IPv6Address],
    ) -> None:
        """The proxy stands for a client whose address it does not state as an address."""
        forwarded = ",".join([*words, hidden, *map(str, hops)])
        expected = str(hops[0]) if hops else "127.0.0.1"
        self.assertEqual(expected, Proxies(LOOPBACK).client("127.0.0.1", forwarded))
