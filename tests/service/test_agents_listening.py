"""The listener of agents under another configuration, and its end."""

from __future__ import annotations

from typing import Any

from cortexd.agents.site import AgentSite
from tests.doubles.authorities import SERVER, Authority
from tests.service.test_relistening import RelisteningTestCase
from tests.test_reassembly import TEXT


def text_with(*keys: str) -> str:
    """Return a configuration with these keys of [agents]."""
    return "\n".join(["[agents]", *keys, TEXT])


class AgentsListeningTests(RelisteningTestCase):
    @property
    def site(self) -> AgentSite:
        """All links of the gateway."""
        return self.made.parts.agent_site

    def addresses(self) -> list[Any]:
        """Return where the site was opened, in order."""
        return [
            (port, interface)
            for port, factory, _, interface in self.reactor.tcpServers
            if factory is self.site
        ]

    def brought(self) -> list[str]:
        """Write the files of an operator's own authority; return the keys that name them."""
        home = Authority("home")
        certificate, key = home.issue("gateway.corp", purpose=SERVER).write(self.folder, "agents")
        ca = home.write(self.folder / "agents-ca.pem")
        return [f'certificate = "{certificate}"', f'key = "{key}"', f'ca = "{ca}"']

    def test_it_begins_moves_and_ends(self) -> None:
        """Each is a reload, and links that are open have nothing to do with it."""
        assert self.made.agents_listener.port is None
        for port in (8700, 8701):
            self.text = text_with(f'listen = "127.0.0.1:{port}"')
            assert 1 == len(self.reload())
            assert self.made.agents_listener.port is not None
        assert [(8700, "127.0.0.1"), (8701, "127.0.0.1")] == self.addresses()
        self.text = TEXT
        self.reload()
        assert self.made.agents_listener.port is None

    def test_who_speaks_without_tls(self) -> None:
        """Agents of this machine, at an address on loopback without an operator's certificate."""
        allowed = []
        for keys in (
            ['listen = "127.0.0.1:8700"'],
            ['listen = "0.0.0.0:8700"'],
            ['listen = "127.0.0.1:8700"', *self.brought()],
            ['listen = "[::1]:8700"'],
        ):
            self.text = text_with(*keys)
            self.reload()
            allowed.append(self.site.is_plain_allowed)

        assert [True, False, False, True] == allowed

    def test_a_renewed_certificate(self) -> None:
        """Files with another content are a change, once, for new connections."""
        listen = 'listen = "0.0.0.0:8700"'
        self.text = text_with(listen, *self.brought())
        self.reload()
        before = self.site.tls
        assert before is not None
        assert [] == self.reload()
        self.brought()
        found = self.reload()

        assert ["agents.certificate", "agents.key", "agents.ca"] == [
            each.partition(":")[0] for each in found
        ]
        assert self.site.tls is not None
        assert before.files != self.site.tls.files
        assert 1 == len(self.addresses())

    def test_broken_files(self) -> None:
        """Nothing changes, and the reason names the key of the file."""
        keys = self.brought()
        self.text = text_with('listen = "0.0.0.0:8700"', *keys)
        self.reload()
        before = self.site.tls
        (self.folder / "agents.crt").write_text("broken", "ascii")
        words = self.refusal(self.made.reloader.reload())

        assert words.startswith(f"agents.certificate: {self.folder}/agents.crt: expected")
        assert before is self.site.tls
