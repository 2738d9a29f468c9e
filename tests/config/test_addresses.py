from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.endpoints import (
    TCP4ServerEndpoint,
    TCP6ServerEndpoint,
    UNIXServerEndpoint,
    serverFromString,
)
from twisted.internet.testing import MemoryReactor
from twisted.trial.unittest import SynchronousTestCase

from cortexd.config.addresses import (
    BACKLOG,
    collide,
    endpoint_description,
    host_and_port,
    node_endpoint,
    path_prefix,
    socket_path,
    with_backlog,
)

LISTEN = (
    'ADDRESS:PORT such as "127.0.0.1:8000", "[::1]:8000" or ":8000" with a port of 0 to 65535, '
    'or a Twisted endpoint such as "systemd:domain=INET:name=http"'
)
ENDPOINT = (
    'an http:// or https:// URL such as "http://10.0.0.7:8080" or "https://gpu.example.com/a", '
    "of host, port and path only"
)
PROXY = 'an IP address, a network such as "10.0.0.0/8", or "unix"'
SOCKET = "an absolute path of at most 107 bytes"

WRONG_ENDPOINTS = [
    "",
    "gpu:8080",
    "gpu.internal",
    "ftp://gpu",
    "http://",
    "http:gpu",
    "http:///v1",
    "http://gpu//",
    "http://gpu/a//",
    "http://gpu/a//b",
    "http://gpu/a/../b",
    "http://gpu/%2E%2e",
    "http://gpu/.",
    "http://gpu/%4",
    "http://gpu/%zz",
    "http://gpu/é",
    "http://gpu/a?",
    "http://gpu/a#b",
    'http://gpu/"',
    "http://gpu?",
    "http://gpu/?a=b",
    "http://gpu#x",
    "http://gpu:port",
    "http://gpu:65536",
    "http://gpu:0",
    "http://gpu:-1",
    "http://gpu gpu",
    " http://gpu",
    "http://gpu\n",
    "http://g\tpu",
    "http://gpu..internal",
    "http://.gpu",
    "http://[::1",
    "http://[::g]",
    "http://[fe80::1%eth0]",
    "http://::1",
    "http://gpu\\x",
    "http://10.0.0.256:80",
    "http://10.0.0",
    "http://10.0.0.7.",
    "http://gpu.1",
]

# Pairs of addresses that cannot both be listened on, and pairs that can.
COLLIDING = [
    ("127.0.0.1:8000", "127.0.0.1:8000"),
    ("localhost:8000", "127.0.0.1:8000"),
    (":8000", "127.0.0.1:8000"),
    ("127.0.0.1:8000", "0.0.0.0:8000"),
    (":8000", "0.0.0.0:8000"),
    ("[::]:8000", "127.0.0.1:8000"),
    ("[::1]:8000", "[0::1]:8000"),
    ("[::]:8000", "[::1]:8000"),
    ("tcp:8000", "tcp:8000"),
    ("systemd:domain=INET:name=http", "systemd:domain=INET:name=http"),
]
COMPATIBLE = [
    ("127.0.0.1:8000", "127.0.0.1:8001"),
    ("127.0.0.1:8000", "127.0.0.2:8000"),
    ("127.0.0.1:0", "127.0.0.1:0"),
    ("0.0.0.0:8000", "[::1]:8000"),
    ("127.0.0.1:8000", "[::1]:8000"),
    ("tcp:0:interface=127.0.0.1", "tcp:0:interface=127.0.0.1"),
    ("systemd:domain=INET:name=http", "systemd:domain=INET:name=metrics"),
]

WRONG_LISTENERS = [
    "",
    "8000",
    "tcp:",
    "gopher:70",
    "1.2.3:80",
    "[1.2.3.4]:80",
    ":٣",
    "[]:1",
    "127.0.0.1:65536",
    "127.0.0.1:-1",
    "127.0.0.256:1",
    "::1:8000",
    "[::g]:8000",
    "gpu.internal:8000",
    "http://127.0.0.1:80",
    "tcp:80\a",
    "[fe80::1%\a]:80",
]


def refusal(read: Callable[[str], str], value: str) -> str:
    """Return what is said when an address is refused."""
    try:
        accepted = read(value)
    except ValueError as error:
        return str(error)
    raise AssertionError(f"{value!r} was accepted: {accepted}")


def escaped(text: str) -> str:
    """Return a text as a message of one line shows it."""
    return text.encode("unicode_escape").decode("ascii") if not text.isprintable() else text


class SocketPathTests(SynchronousTestCase):
    def test_longest(self) -> None:
        """A path that the system can bind comes back as it is."""
        path = "/" + "p" * 106
        assert path == socket_path(path)

    def test_refused(self) -> None:
        """A path is refused that is relative, not printable or of more bytes than fit."""
        for path, found in [
            ("", '""'),
            ("control.sock", '"control.sock"'),
            ("/a\0b", r'"/a\x00b"'),
            ("/\udcff", r'"/\udcff"'),
            (f"/{'é' * 54}", f'"/{"é" * 54}" of 109 bytes'),
        ]:
            expected = f"found {found}, expected {SOCKET}"
            assert expected == refusal(socket_path, path)


class NodeEndpointTests(SynchronousTestCase):
    def test_accepted(self) -> None:
        """An endpoint loses its trailing slash and capitals, and may be an address of any kind."""
        for written, meant, leads_to in [
            ("http://gpu:8080/", "http://gpu:8080", ("gpu", 8080)),
            ("https://GPU.Internal", "https://gpu.internal", ("gpu.internal", 443)),
            ("http://10.0.0.7", "http://10.0.0.7", ("10.0.0.7", 80)),
            ("http://[2001:DB8::0:1]:8080", "http://[2001:db8::1]:8080", ("2001:db8::1", 8080)),
            ("http://gpu_1.local.:1", "http://gpu_1.local.:1", ("gpu_1.local.", 1)),
            ("http://gpu-.7up.local2x", "http://gpu-.7up.local2x", ("gpu-.7up.local2x", 80)),
            ("https://10.0.0.7", "https://10.0.0.7", ("10.0.0.7", 443)),
            ("https://[::1]", "https://[::1]", ("::1", 443)),
            ("https://gpu-1.xn--gp-xka.", "https://gpu-1.xn--gp-xka.", ("gpu-1.xn--gp-xka.", 443)),
        ]:
            assert meant == node_endpoint(written)
            assert leads_to == host_and_port(meant)

    def test_prefix(self) -> None:
        """A path is in one form, however it was written; escapes that mean something stay."""
        for written, meant in [
            ("http://gpu/a", "/a"),
            ("http://gpu:80/a/", "/a"),
            ("https://gpu/a/b.c/~d", "/a/b.c/~d"),
            ("http://gpu/%7euser/%41", "/~user/A"),
            ("http://gpu/a%2fb%25", "/a%2Fb%25"),
            ("http://gpu/a!$&'()*+,;=:b", "/a!$&'()*+,;=:b"),
            ("http://[::1]:1/v1x", "/v1x"),
        ]:
            assert meant == path_prefix(node_endpoint(written))
        for path in ("/v1", "/v1/", "/a/v1"):
            found = f'found "http://gpu{path}", but cortexd adds /v1 to the path by itself'
            assert f"{found}, expected {ENDPOINT}" == refusal(node_endpoint, f"http://gpu{path}")

    def test_refused(self) -> None:
        """A node's endpoint is a URL of nothing but scheme, host, port and a plain path."""
        for endpoint in WRONG_ENDPOINTS:
            expected = f'found "{escaped(endpoint)}", expected {ENDPOINT}'
            assert expected == refusal(node_endpoint, endpoint)

    def test_longest_name(self) -> None:
        """A name may be as long as resolvers take it: 253 characters in parts of 63."""
        longest = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61])
        assert f"http://{longest}" == node_endpoint(f"http://{longest}")
        for longer in ("a" * 64, longest + "d", "a." + "b" * 64):
            assert refusal(node_endpoint, f"http://{longer}").endswith(f", expected {ENDPOINT}")

    def test_certified(self) -> None:
        """A name that no certificate can be for is refused with https, where the node shows one."""
        for name in ("gpu_1", "_gpu.local", "-gpu", "gpu-.local", "ab--cd", "a.ab--cd.local"):
            found = f'found "https://{name}:1", a name that no certificate can contain'
            assert f"{found}, expected {ENDPOINT}" == refusal(node_endpoint, f"https://{name}:1")
            assert f"http://{name}:1" == node_endpoint(f"http://{name}:1")

    def test_password(self) -> None:
        """A password in a node's endpoint is refused without being repeated."""
        expected = f"found a URL with a user name, expected {ENDPOINT}"
        for url in ("http://me:secret@a:1", "http://me:sec/ret@a:1", "http://a:1/@me"):
            assert expected == refusal(node_endpoint, url)

    @settings(max_examples=200)
    @given(
        st.text(max_size=80) | st.from_regex(r"\Ahttps?://[a-zA-Z0-9.:\[\]_-]*(/[a.%2Ee~v1]*)*\Z")
    )
    def test_anything(self, value: str) -> None:
        """Whatever is accepted is in its final form and leads somewhere; the rest is one line."""
        try:
            endpoint = node_endpoint(value)
        except ValueError as refused:
            words = str(refused)
        else:
            host, port = host_and_port(endpoint)
            words = f"found {host}, expected {ENDPOINT}"
            assert endpoint == node_endpoint(endpoint)
            assert host
            assert host.encode("idna")  # what Python does before it has a name resolved
            assert 0 < port < 65536
        assert words.isprintable()
        assert words.endswith(f", expected {ENDPOINT}")


class CollisionTests(SynchronousTestCase):
    def test_colliding(self) -> None:
        """Two listeners that would need the same port of an address collide, in any order."""
        for one, other in COLLIDING:
            assert collide(one, other), (one, other)
            assert collide(other, one), (other, one)

    def test_compatible(self) -> None:
        """Two listeners that do not get in each other's way do not collide, in any order."""
        for one, other in COMPATIBLE:
            assert not collide(one, other), (one, other)
            assert not collide(other, one), (other, one)


class EndpointDescriptionTests(SynchronousTestCase):
    def test_addresses(self) -> None:
        """Twisted makes of each description an endpoint with the address that was written."""
        for listen, description, kind, port, interface in [
            ("0.0.0.0:8000", "tcp:8000:interface=0.0.0.0", TCP4ServerEndpoint, 8000, "0.0.0.0"),
            (":8000", "tcp:8000", TCP4ServerEndpoint, 8000, ""),
            ("localhost:0", "tcp:0:interface=127.0.0.1", TCP4ServerEndpoint, 0, "127.0.0.1"),
            ("[::]:8000", r"tcp6:8000:interface=\:\:", TCP6ServerEndpoint, 8000, "::"),
            ("[::1]:65535", r"tcp6:65535:interface=\:\:1", TCP6ServerEndpoint, 65535, "::1"),
            (
                "[fe80::1%a=b:c]:1",
                r"tcp6:1:interface=fe80\:\:1%a\=b\:c",
                TCP6ServerEndpoint,
                1,
                "fe80::1%a=b:c",
            ),
        ]:
            assert description == endpoint_description(listen)
            endpoint: Any = serverFromString(MemoryReactor(), description)
            assert (kind, port, interface) == (type(endpoint), endpoint._port, endpoint._interface)

    def test_descriptions(self) -> None:
        """What is an endpoint description already stays as it is."""
        for description in (
            "systemd:domain=INET:name=http",
            "tcp:8000:interface=127.0.0.1",
            r"tcp6:8000:interface=\:\:1",
            "unix:/run/cortex/http.sock:mode=660",
            "ssl:8443:privateKey=/etc/key.pem:certKey=/etc/cert.pem",
            "haproxy:tcp:8000",
        ):
            assert description == endpoint_description(description)

    def test_unix_path(self) -> None:
        """The limit on a UNIX socket's path counts what Twisted will bind, without the quoting."""
        path = "/" + ":" * 106
        description = "unix:" + path.replace(":", r"\:") + ":mode=660"
        assert description == endpoint_description(description)
        endpoint: Any = serverFromString(MemoryReactor(), description)
        assert (UNIXServerEndpoint, path) == (type(endpoint), endpoint._address)

        longer = f"unix:address=/p{description.removeprefix('unix:/')}"
        assert refusal(endpoint_description, longer).endswith(f"of 108 bytes, expected {SOCKET}")

    def test_backlog(self) -> None:
        """Each kind of listener gets the long queue, unless its description states a length."""
        for description, length in [
            ("tcp:8000", BACKLOG),
            ("tcp:8000:interface=127.0.0.1", BACKLOG),
            ("tcp:8000:127.0.0.1", BACKLOG),
            ("tcp:8000:127.0.0.1:7", 7),
            ("tcp:8000::7", 7),
            ("tcp:port=8000:backlog=7", 7),
            (r"tcp6:8000:interface=\:\:1", BACKLOG),
            ("tcp6:8000:7", 7),
            (r"unix:/run/a\:b", BACKLOG),
            ("unix:address=/run/a=b:mode=660", BACKLOG),
            ("unix:/run/a:660:7", 7),
            ("haproxy:tcp:8000", BACKLOG),
            ("haproxy:unix:/run/a:backlog=7", 7),
        ]:
            endpoint: Any = serverFromString(MemoryReactor(), with_backlog(description))
            endpoint = getattr(endpoint, "_wrappedEndpoint", endpoint)
            assert length == endpoint._backlog, description
        assert "ssl:1:backlog=4096" == with_backlog("ssl:1")
        assert "tls:/keys:backlog=4096" == with_backlog("tls:/keys")

    def test_backlog_of_systemd(self) -> None:
        """A socket from systemd listens already, with the Backlog of its unit."""
        for description in ("systemd:domain=INET:name=http", "haproxy:systemd:domain=INET:index=0"):
            assert description == with_backlog(description)

    def test_refused(self) -> None:
        """Anything else is refused with what was found and what is allowed."""
        for listen in WRONG_LISTENERS:
            expected = f'found "{escaped(listen)}", expected {LISTEN}'
            assert expected == refusal(endpoint_description, listen)

    @settings(max_examples=200)
    @given(st.text(max_size=80) | st.from_regex(r"\A[a-z:0-9.\[\]]*:[0-9]{1,6}\Z"))
    def test_anything(self, listen: str) -> None:
        """A listen address has a description that Twisted can use, or is refused by ValueError."""
        try:
            description = endpoint_description(listen)
        except ValueError as refused:
            description = "tcp:0"
            self.assertIn(", expected ", str(refused))
        if description != listen:
            serverFromString(MemoryReactor(), description)
