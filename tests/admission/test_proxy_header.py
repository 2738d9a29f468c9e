"""The PROXY header, versions 1 and 2."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.admission.proxies import UNIX
from cortexd.admission.proxy_header import (
    LONGEST_1,
    LONGEST_2,
    VERSION_2,
    ProxyHeader,
    ProxyHeaderError,
    read_proxy_header,
    write_proxy_header,
)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
PORT = st.integers(0, 0xFFFF)
REST = st.binary(max_size=40)
BEGINNING = st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", b"PROXY TCP6 ::1 ", VERSION_2])
TLV = st.builds(
    lambda kind, value: bytes([kind]) + len(value).to_bytes(2) + value,
    st.integers(0, 0xDF),
    st.binary(max_size=20),
)


def version_1(client: Address, port: int) -> bytes:
    server = "10.0.0.1" if client.version == 4 else "2001:db8::1"
    return f"PROXY TCP{client.version} {client} {server} {port} 443\r\n".encode()


def version_2(client: Address, port: int, fields: bytes = b"", command: int = 0x21) -> bytes:
    width = len(client.packed)
    content = client.packed + bytes(width) + port.to_bytes(2) + b"\1\xbb" + fields
    family = 0x11 if width == 4 else 0x21
    return VERSION_2 + bytes([command, family]) + len(content).to_bytes(2) + content


def shown(client: Address) -> str:
    return str(getattr(client, "ipv4_mapped", None) or client)


class ProxyHeaderTests(SynchronousTestCase):
    def assert_refused(self, data: bytes) -> None:
        with self.assertRaises(ProxyHeaderError, msg=data) as raised:
            read_proxy_header(data)
        assert str(raised.exception).isprintable()

    @given(client=st.ip_addresses(), port=PORT, rest=REST, fields=st.lists(TLV, max_size=3))
    def test_a_client_is_read(
        self, client: Address, port: int, rest: bytes, fields: list[bytes]
    ) -> None:
        """Either version states host and port, and the bytes after it are left as they are."""
        expected = ProxyHeader((shown(client), port), rest)
        for header in (version_1(client, port), version_2(client, port, b"".join(fields))):
            self.assertEqual(expected, read_proxy_header(header + rest))
            for end in range(len(header)):
                self.assertIsNone(read_proxy_header(header[:end]))

    @given(host=st.one_of(st.just(UNIX), st.ip_addresses().map(str)), port=PORT, rest=REST)
    def test_what_is_written_can_be_read(self, host: str, port: int, rest: bytes) -> None:
        """With its token; a client over a UNIX socket has no address."""
        read = read_proxy_header(write_proxy_header(host, port, b"secret") + rest)
        assert read is not None
        source = None if host == UNIX else (shown(ipaddress.ip_address(host)), port)
        self.assertEqual((source, rest, b"secret"), read)
        self.assertTrue(read.has_token_of([b"other", b"secret"]))
        self.assertFalse(read.has_token_of([b"other", b""]))

    @given(data=st.builds(lambda start, more: start + more, BEGINNING, st.binary(max_size=300)))
    def test_any_bytes(self, data: bytes) -> None:
        """They are a header, may become one, or are refused; the end of what is read is bounded."""
        try:
            read = read_proxy_header(data)
        except ProxyHeaderError:
            return
        if read is None:
            assert len(data) < (LONGEST_2 if data.startswith(VERSION_2) else LONGEST_1)
        else:
            assert data.endswith(read.rest)

    def test_a_header_without_a_client(self) -> None:
        """The proxy asks for itself, or does not know its client's address, or it has none."""
        unix = VERSION_2 + b"\x21\x31" + (216).to_bytes(2) + bytes(216)
        unspecified = VERSION_2 + b"\x21\x00\x00\x00"
        local = version_2(ipaddress.ip_address("1.2.3.4"), 5, command=0x20)
        for header in (b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN ::1 ::1 1 2\r\n", unix, unspecified):
            self.assertEqual(ProxyHeader(None, b"GET"), read_proxy_header(header + b"GET"))
        self.assertEqual(ProxyHeader(None, b""), read_proxy_header(local))

    def test_bytes_that_are_no_header(self) -> None:
        """They are refused as soon as they can become none."""
        client = ipaddress.ip_address("1.2.3.4")
        for data in (
            *(b"G", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"PROXZ", b"proxy TCP4"),
            *(b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", b"PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n"),
            *(b"PROXY TCP4 ::1 ::1 1 2\r\n", b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n"),
            *(b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n", b"PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n"),
            *(b"PROXY TCP6 fe80::1%a ::1 1 2\r\n", b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n"),
            *(b"PROXY \r\n", b"PROXY " + b"x" * LONGEST_1, b"PROXY TCP4 a\0b 1.2.3.4 1 2\r\n"),
            *(version_2(client, 5, command=0x11), version_2(client, 5, command=0x22)),
            version_2(client, 5, fields=b"\x04\x00\x09x"),
            VERSION_2 + b"\x21\x13\x00\x00",
            VERSION_2 + b"\x21\x11\x00\x04abcd",
            VERSION_2 + b"\x21\x11\xff\xff",
        ):
            self.assert_refused(data)
