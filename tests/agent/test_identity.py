import tempfile
from pathlib import Path

from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from cortexd.agent.identity import expiries, exposures, reach_of
from cortexd.config.agent_settings import OwnSettings
from cortexd.config.tables import ConfigError
from cortexd.link.certificates import DAY, Authority, agent_pair, authority_of, new_authority
from cortexd.link.enrolment import AgentEnrolment, text_of
from cortexd.link.proofs import new_token

NOW = 1_800_000_000.0
AUTHORITY: Authority = authority_of(new_authority(NOW))
PAIR = agent_pair(AUTHORITY, "gpu1", NOW, NOW + DAY)
BY_TOKEN = AgentEnrolment(
    node="gpu1",
    gateway="gw.example.com:8700",
    server_name="gateway.cortexd",
    ca=AUTHORITY.pem,
    token=new_token(),
)
BY_CERTIFICATE = replace(BY_TOKEN, token=None, certificate=PAIR.certificate, key=PAIR.key)


class ReachTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def file(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def enrolment(self, enrolment: AgentEnrolment) -> str:
        return self.file("enrolment", text_of(enrolment))

    def test_enrolment(self) -> None:
        """The enrolment states all: the node, the gateway, its name, and what admits the agent."""
        for enrolment in (BY_TOKEN, BY_CERTIFICATE):
            path = self.enrolment(enrolment)
            address, identity = reach_of(OwnSettings(enrolment=path))

            assert ("gw.example.com", 8700) == address
            assert ("gpu1", "gateway.cortexd") == (identity.node, identity.server_name)
            assert identity.tls is not None
            assert 1 == len(identity.tls.authorities)
            assert bool(identity.token) is not bool(identity.tls.chain)

    def test_a_certificate_that_ends(self) -> None:
        """A check says that it has expired, or does soon; a token has no time of its own."""
        _, certified = reach_of(OwnSettings(enrolment=self.enrolment(BY_CERTIFICATE)))
        [soon] = expiries(certified, NOW + DAY / 2)
        [over] = expiries(certified, NOW + 2 * DAY)
        _, by_token = reach_of(OwnSettings(enrolment=self.enrolment(BY_TOKEN)))

        assert soon.startswith("the certificate of this agent expires in 12 hours")
        assert over.startswith("the certificate of this agent has expired 24 hours ago")
        assert [] == expiries(by_token, NOW + 2 * DAY)

    def test_keys_replace_the_enrolment(self) -> None:
        """An address, a name, a token or a certificate in the file itself count instead."""
        path = self.enrolment(BY_CERTIFICATE)
        token = new_token()
        own = OwnSettings(
            enrolment=path,
            gateway="[::1]:9",
            server_name="other",
            token_file=self.file("token", f"{token}\n"),
        )

        address, identity = reach_of(own)

        assert ("::1", 9) == address
        assert ("other", token) == (identity.server_name, identity.token)
        assert identity.tls is not None
        assert ((), b"") == (identity.tls.chain, identity.tls.key)

    def test_own_certificate(self) -> None:
        """Files of one's own need no enrolment; the gateway's certificate must name its host."""
        own = OwnSettings(
            node="gpu1",
            gateway="gw.example.com:8700",
            ca=self.file("ca.pem", AUTHORITY.pem),
            certificate=self.file("c.pem", PAIR.certificate),
            key=self.file("k.pem", PAIR.key),
        )

        _, identity = reach_of(own)

        assert ("gw.example.com", "") == (identity.server_name, identity.token)
        assert identity.tls is not None
        assert identity.tls.authorities
        assert identity.tls.chain

    def test_loopback(self) -> None:
        """An agent on the gateway's machine needs nothing but its node's name."""
        address, identity = reach_of(OwnSettings(node="a", gateway="127.0.0.1:8700"))

        assert (("127.0.0.1", 8700), "a", None) == (address, identity.node, identity.tls)

    def test_faults(self) -> None:
        """A file that is missing, or of another kind, or of another node, is told by its key."""
        path = self.enrolment(BY_TOKEN)
        for own, words in (
            (OwnSettings(enrolment="/gone"), "/gone: cannot be read"),
            (OwnSettings(enrolment=path, node="other"), "agent.node: found other, expected gpu1"),
            (OwnSettings(enrolment=path, token_file="/gone"), "agent.token_file: /gone cannot be"),
            (
                OwnSettings(enrolment=path, token_file=self.file("t", "x")),
                "expected the token that 'cortexctl agent enroll --token' has made",
            ),
            (OwnSettings(enrolment=path, ca="/gone"), "agent.ca: /gone cannot be read"),
            (
                OwnSettings(
                    enrolment=path,
                    certificate=self.file("c.pem", PAIR.certificate),
                    key=self.file("k.pem", agent_pair(AUTHORITY, "b", NOW, NOW + DAY).key),
                ),
                "agent.key: ",
            ),
        ):
            with self.assertRaises(ConfigError) as caught:
                reach_of(own)
            assert words in str(caught.exception), str(caught.exception)

    def test_secret_files_of_everybody(self) -> None:
        """The agent warns of each, and of no other file."""
        paths = {}
        for name, mode in (("enrolment", 0o604), ("key", 0o600), ("ca", 0o644)):
            paths[name] = Path(self.folder, name)
            paths[name].touch()
            paths[name].chmod(mode)
        enrolment, key, ca = map(str, paths.values())
        own = OwnSettings(enrolment=enrolment, key=key, ca=ca)
        [warning] = exposures(own)

        assert str(paths["enrolment"]) in warning
        assert "chmod 600" in warning
