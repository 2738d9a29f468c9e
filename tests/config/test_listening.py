"""Where and how listeners listen: TLS by the keys or by a description, and who can connect."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.config.listening import (
    Files,
    agents_address,
    is_local,
    listening,
    listenings,
    values_of,
)
from cortexd.config.settings import AgentsSettings, GatewaySettings

FILES = Files("/c.pem", "/k.pem")
LOCAL = (
    "127.0.0.1:8000",
    "127.8.0.1:8000",
    "localhost:8000",
    "[::1]:8000",
    "[::ffff:127.0.0.1]:8000",
    "tcp:8000:interface=127.0.0.1",
    "tcp:8000:127.0.0.1",
    "tcp:8000:interface=localhost",
    r"tcp6:8000:interface=\:\:1",
    r"tcp6:8000:50:\:\:1",
    "unix:/run/cortex/http.sock",
    "ssl:8443:interface=127.0.0.1:privateKey=/k.pem",
    "ssl:8443:/k.pem:/c.pem:interface=127.0.0.1",
    r"tls:/etc/cortex/certificates:8443:interface=\:\:1",
    "haproxy:tcp:8000:interface=127.0.0.1",
    "systemd:domain=UNIX:name=http",
)
BEYOND = (
    ":8000",
    "0.0.0.0:8000",
    "10.0.0.7:8000",
    "[::]:8000",
    "[fe80::1]:8000",
    "tcp:8000",
    "tcp:8000:interface=gateway.internal",
    "tcp6:8000",
    "ssl:8443:privateKey=/k.pem",
    "tls:/etc/cortex/certificates",
    "haproxy:tcp:8000",
)


class LocalTests(SynchronousTestCase):
    def test_only_this_machine_can_connect(self) -> None:
        """To an address on loopback, in any form, and to a UNIX socket."""
        for listen in LOCAL:
            assert is_local(listening(listen).description) is True, listen

    def test_others_can_connect(self) -> None:
        """To every other address, and to names that a resolver decides about."""
        for listen in BEYOND:
            assert is_local(listening(listen).description) is False, listen

    def test_a_socket_of_systemd(self) -> None:
        """Only the socket itself knows its address."""
        for listen in ("systemd:domain=INET:name=http", "haproxy:systemd:domain=INET6:index=0"):
            description = listening(listen).description
            found = [is_local(description, host) for host in (None, "::1", "10.0.0.7", "")]
            assert [None, True, False, False] == found


class AgentsTests(SynchronousTestCase):
    def test_where_agents_connect(self) -> None:
        """It is known by a name of our certificate, or by an address that is not every one."""
        for listen, names, expected in (
            ("10.0.0.1:8700", (), "10.0.0.1:8700"),
            ("[fd00::1]:8700", (), "[fd00::1]:8700"),
            ("0.0.0.0:8700", ("gw.example.com", "10.0.0.1"), "gw.example.com:8700"),
            ("10.0.0.1:8700", ("fd00::1",), "[fd00::1]:8700"),
            (":8700", (), None),
            ("[::]:8700", (), None),
            ("systemd:domain=INET:name=agents", ("gw",), None),
            (None, ("gw",), None),
        ):
            agents = AgentsSettings(listen=listen, names=names)
            assert expected == agents_address(agents), listen


class TLSTests(SynchronousTestCase):
    def test_the_keys(self) -> None:
        """They give TLS to any plain address, and change nothing of the address."""
        for listen in ("127.0.0.1:8000", "systemd:domain=INET:name=http", "haproxy:tcp:8000"):
            where = listening(listen, FILES)
            assert listening(listen).description == where.description
            assert (FILES, True, True) == (where.files, where.are_keys, where.is_tls)

    def test_a_description(self) -> None:
        """Its files leave it, by name or by position; what is left is a plain address."""
        named = r"ssl:8443:interface=\:\:1:backlog=7:privateKey=/k\:1.pem:certKey=/c.pem"
        where = listening(f"{named}:extraCertChain=/x.pem:dhParameters=/d.pem")
        assert Files("/c.pem", "/k:1.pem", "/x.pem", "/d.pem") == where.files
        assert r"tcp:port=8443:interface=\:\:1:backlog=7" == where.description
        assert Files("/k.pem", "/k.pem") == listening("ssl:8443:/k.pem").files
        assert Files("/c.pem", "/k.pem") == listening("haproxy:ssl:8443:/k.pem:/c.pem").files
        assert "haproxy:tcp:port=8443" == listening("haproxy:ssl:8443:/k.pem").description

    def test_an_option_that_we_do_not_have(self) -> None:
        """Nobody chooses an old version of TLS."""
        error = self.assertRaises(ValueError, listening, "ssl:8443:sslmethod=TLSv1_METHOD")
        assert "TLS 1.2 or later" in str(error)

    def test_listeners(self) -> None:
        """TLS is for the clients' listener alone, and the plain one beside it is optional."""
        gateway = GatewaySettings(tls_certificate="/c.pem", tls_key="/k.pem")
        found = listenings(gateway)
        assert found["gateway.http_listen"] is None
        assert [FILES, None] == [where.files for where in found.values() if where is not None]

    @given(st.text(max_size=30).filter(lambda text: "\n" not in text))
    @settings(max_examples=50)
    def test_any_path(self, path: str) -> None:
        """A path with colons and backslashes comes out as it went in."""
        escaped = path.replace("\\", "\\\\").replace(":", "\\:")
        assert path == values_of(f"ssl:8443:privateKey={escaped}")["privateKey"]
