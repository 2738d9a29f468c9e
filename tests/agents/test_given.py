"""Certificates that an operator brings instead of ours."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.agents.given import server_name, trusted_text
from cortexd.config.node_tls import NodeTLS
from cortexd.errors import OperationRefused
from cortexd.link.certificates import (
    DAY,
    Authority,
    Pair,
    agent_pair,
    authority_of,
    gateway_pair,
    new_authority,
)
from cortexd.link.enrolment import tls_of

NOW = 1_800_000_000.0
AUTHORITY = authority_of(new_authority(NOW))
OTHER = authority_of(new_authority(NOW))


def files(pair: Pair, authority: Authority = AUTHORITY) -> NodeTLS:
    """Return the files of a configuration."""
    return tls_of(pair.certificate, pair.key, authority.pem)


class GivenTests(SynchronousTestCase):
    def test_the_name_that_agents_look_for(self) -> None:
        """It is the first DNS name of the certificate, never a wildcard."""
        assert server_name(files(gateway_pair(AUTHORITY, ["gw"], NOW))) == "gateway.cortexd"

    def test_no_name(self) -> None:
        """A certificate without one serves no agent, and the refusal says what to do."""
        pair = agent_pair(AUTHORITY, "gpu1", NOW, NOW + DAY)

        with self.assertRaises(OperationRefused):
            server_name(files(pair))

    def test_what_agents_trust(self) -> None:
        """The authority of the agents if it has signed the gateway's too, or else the system's."""
        pair = gateway_pair(AUTHORITY, [], NOW)

        assert trusted_text(files(pair)) == AUTHORITY.pem
        assert trusted_text(files(pair, OTHER)) is None
        itself = NodeTLS(files(pair).chain, files(pair).chain)
        assert trusted_text(itself) == pair.certificate
