"""Which agent may speak for which node."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.link.admission import (
    DAMAGED,
    Enrolment,
    Enrolments,
    Kind,
    PeerCertificate,
    names_in,
    urn,
)

DAY = 86_400.0
NOW = 1_000 * DAY
KEY = b"k" * 32

OURS = PeerCertificate(frozenset({"gpu1"}), 7, NOW - DAY, NOW + DAY, is_ours=True)
FOREIGN = replace(OURS, is_ours=False)
ENROLMENT = Enrolment(
    node="gpu1", kind=Kind.CERTIFICATE, serial=7, created=NOW - DAY, expires=NOW + DAY
)
TOKEN = Enrolment(node="gpu2", kind=Kind.TOKEN, key=KEY, created=NOW - DAY, expires=NOW + DAY)


def why_not(
    certificate: PeerCertificate, *enrolments: Enrolment, node: str = "gpu1", **revoked: float
) -> str:
    """Return why a certificate does not admit, or an empty text."""
    return Enrolments(enrolments, revoked).check_certificate(node, certificate, NOW) or ""


class CertificateTests(SynchronousTestCase):
    def test_an_enrolled_certificate_admits(self) -> None:
        """One of our own authority holds while it is the one of its node's enrolment."""
        assert why_not(OURS, ENROLMENT, TOKEN) == ""

    def test_a_certificate_of_another_authority_needs_no_enrolment(self) -> None:
        """Its owner decides whom it is given to."""
        assert why_not(FOREIGN) == ""

    def test_a_certificate_speaks_for_its_own_node(self) -> None:
        """The refusal names the nodes that it is for, and shows a peer's text on one line."""
        other = replace(ENROLMENT, node="gpu2")

        assert why_not(OURS, ENROLMENT, other, node="gpu2") == (
            "the certificate is not for node gpu2: it names gpu1"
        )
        assert "'gpu1\\n'" in why_not(FOREIGN, node="gpu1\n")
        assert "node gpu1: it names no node" in why_not(replace(FOREIGN, names=frozenset()))
        assert "it names 1, 2, 3, ..." in why_not(replace(FOREIGN, names=frozenset("12345")))

    def test_case_matters(self) -> None:
        """Two nodes may have names that differ in their case alone."""
        assert why_not(FOREIGN, node="GPU1") != ""

    def test_a_newer_enrolment_replaces_the_certificate(self) -> None:
        """Only the last certificate that was made for a node holds."""
        assert "newer enrolment" in why_not(OURS, replace(ENROLMENT, serial=8))
        assert "no enrolment" in why_not(OURS, replace(TOKEN, node="gpu1"))
        assert "agent enroll gpu1" in why_not(OURS)

    def test_a_certificate_outside_its_validity(self) -> None:
        """A wrong clock shows as a certificate that is not valid yet."""
        early = replace(FOREIGN, not_before=NOW + 1)

        assert "check the clocks of both machines" in why_not(early)
        assert "has expired on 1972-09-27" in why_not(replace(FOREIGN, not_after=NOW))
        assert "no enrolment" in why_not(OURS, replace(ENROLMENT, expires=NOW))

    def test_a_revoked_node(self) -> None:
        """A certificate from before does not hold, whoever has signed it; a later one does."""
        assert "was revoked on 1972-09-27" in why_not(FOREIGN, gpu1=NOW)
        assert "begins later" in why_not(FOREIGN, gpu1=FOREIGN.not_before)
        assert why_not(FOREIGN, gpu1=FOREIGN.not_before - 1) == ""
        assert why_not(FOREIGN, gpu2=NOW) == ""
        assert "was revoked" in why_not(OURS, ENROLMENT, gpu1=NOW)
        assert "agent enroll gpu1" in why_not(OURS, ENROLMENT, gpu1=NOW)

    def test_a_damaged_file_admits_nobody(self) -> None:
        """It may have a revocation that we do not know. Enrolments that can be read end that."""
        enrolments = Enrolments([ENROLMENT, TOKEN])
        enrolments.fail("agents.toml: line 1")

        assert enrolments.check_certificate("gpu1", OURS, NOW) == DAMAGED
        assert enrolments.check_certificate("gpu1", FOREIGN, NOW) == DAMAGED
        assert enrolments.token_key("gpu2", NOW) is None

        enrolments.take([ENROLMENT, TOKEN], {})

        assert enrolments.check_certificate("gpu1", OURS, NOW) is None
        assert enrolments.token_key("gpu2", NOW) == KEY


class TokenTests(SynchronousTestCase):
    def test_an_enrolled_token(self) -> None:
        """The key of a token is there while its enrolment holds."""
        assert Enrolments([TOKEN]).token_key("gpu2", NOW) == KEY
        assert Enrolments([TOKEN]).token_key("gpu2", TOKEN.expires) is None
        assert Enrolments([TOKEN], {"gpu2": TOKEN.created}).token_key("gpu2", NOW) is None
        assert Enrolments([TOKEN], {"gpu2": TOKEN.created - 1}).token_key("gpu2", NOW) == KEY

    def test_other_nodes_have_none(self) -> None:
        """A certificate is no token, and an empty key is no key."""
        enrolments = Enrolments([ENROLMENT, TOKEN, replace(TOKEN, node="gpu3", key=b"")])

        assert [None] * 3 == [enrolments.token_key(each, NOW) for each in ("gpu1", "gpu3", "gpu4")]

    def test_a_key_is_not_shown(self) -> None:
        """The representation of an enrolment may reach a log."""
        assert "kkk" not in repr(TOKEN)


def names(*uris: str, dns: tuple[str, ...] = (), common: tuple[str, ...] = ()) -> set[str]:
    """Return the nodes of a certificate of another authority."""
    return set(names_in(uris, dns, common, is_ours=False))


class NameTests(SynchronousTestCase):
    def test_our_uri_decides_alone(self) -> None:
        """Other names in the certificate are then no names of nodes."""
        assert names(urn("gpu1"), "https://gpu1/", dns=("gpu2",), common=("gpu3",)) == {"gpu1"}

    def test_two_uris_are_none(self) -> None:
        """No certificate of ours has two; a second one, or one in another case, is a trick."""
        assert names(urn("gpu1"), urn("gpu2")) == set()
        assert names(urn("gpu1"), urn("gpu1")) == set()
        assert names(urn("gpu1"), "URN:cortexd:agent:gpu2") == set()
        assert names("URN:CORTEXD:agent:gpu1", dns=("gpu1",)) == set()

    def test_our_own_authority_names_nodes_by_uri_alone(self) -> None:
        """The gateway's own certificate has names of machines, and speaks for no node."""
        found = names_in([], ["gpu1", "gateway.cortexd"], ["gpu1"], is_ours=True)

        assert found == frozenset()
        assert names_in([urn("gpu1")], [], [], is_ours=True) == {"gpu1"}

    def test_names_of_another_authority(self) -> None:
        """DNS names and common names count as they are written."""
        assert names(dns=("gpu1", "gpu1.example.com"), common=("GPU1",)) == {
            "gpu1",
            "gpu1.example.com",
            "GPU1",
        }

    def test_no_name_of_a_node(self) -> None:
        """Wildcards, cut names, blanks and escapes are not names of nodes."""
        odd = ("*", "*.example.com", "gpu1\0.evil.com", "gpu1\n", "", " gpu1", "gpu%31", "gpü1")

        assert names(dns=odd, common=odd) == set()
        assert all(names(urn(each)) == set() for each in odd)


NODES = st.sampled_from(["a", "b"])
TIMES = st.integers(0, 4).map(float)
CERTIFICATES = st.builds(
    PeerCertificate,
    st.frozensets(NODES, max_size=1),
    st.integers(1, 2),
    TIMES,
    TIMES,
    st.booleans(),
)
ENTRIES = st.builds(
    Enrolment,
    node=NODES,
    kind=st.sampled_from(Kind),
    created=TIMES,
    expires=TIMES,
    serial=st.integers(1, 2),
    key=st.sampled_from([b"", b"x", b"y"]),
)
STATES = st.builds(
    Enrolments,
    st.lists(ENTRIES, max_size=2, unique_by=lambda e: e.node),
    st.dictionaries(NODES, TIMES),
)


class RuleTests(SynchronousTestCase):
    @settings(max_examples=200, deadline=None)
    @given(STATES, NODES, CERTIFICATES, TIMES)
    def test_no_certificate_admits_too_much(
        self, enrolments: Enrolments, node: str, certificate: PeerCertificate, now: float
    ) -> None:
        """Who is admitted has the node's name, is in time, and was not revoked or replaced."""
        if enrolments.check_certificate(node, certificate, now) is not None:
            return

        assert node in certificate.names
        assert certificate.not_before <= now < certificate.not_after
        assert certificate.not_before > enrolments.revoked.get(node, -1.0)
        if certificate.is_ours:
            entry = enrolments.by_node[node]
            assert entry.kind is Kind.CERTIFICATE
            assert entry.serial == certificate.serial
            assert now < entry.expires

    @settings(max_examples=100, deadline=None)
    @given(STATES, NODES, TIMES)
    def test_no_token_admits_too_much(self, enrolments: Enrolments, node: str, now: float) -> None:
        """A key is that of the node's own token, in time, and of after the last revocation."""
        key = enrolments.token_key(node, now)
        if key is None:
            return

        entry = enrolments.by_node[node]
        assert key == entry.key != b""
        assert entry.kind is Kind.TOKEN
        assert now < entry.expires
        assert entry.created > enrolments.revoked.get(node, -1.0)
