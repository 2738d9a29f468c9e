"""The file of the enrolments."""

from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.config.agents_file import (
    HEAD,
    EnrolmentSettings,
    RevokedSettings,
    enrolled,
    read,
    revoked,
)
from cortexd.config.tables import ConfigError
from cortexd.config.tables_text import UnknownFormError

NOW = datetime(2026, 11, 30, 17, tzinfo=UTC)
KEY = "0f" * 32

FILE = f"""\
# The agents of the laboratory.

[[agents]]
node = "gpu1"  # below the desk
kind = "certificate"
serial = "5f"
created = 2026-11-30T17:00:00Z
expires = 2028-11-30T17:00:00+01:00

# Bob's own machine.
[[ agents ]]
'node' = 'gpu2'
expires = 2028-11-30T17:00:00Z
created = 2026-11-30T17:00:00Z
kind = "token"
key = "{KEY}"

# It was sold.
[[revoked]]
node = "gpu3"
at = 2026-11-01T00:00:00Z
# The end."""


def enrolment(node: str, serial: str = "1", created: datetime = NOW) -> EnrolmentSettings:
    """Return the enrolment of a node with a certificate."""
    expires = created + timedelta(days=730)
    return EnrolmentSettings(
        node=node, kind="certificate", serial=serial, created=created, expires=expires
    )


class ReadingTests(SynchronousTestCase):
    def test_a_file(self) -> None:
        """Both kinds of enrolments and the revocations come in their order."""
        found = read(FILE, "agents.toml")

        assert ["gpu1", "gpu2"] == [each.node for each in found.agents]
        assert ("5f", None) == (found.agents[0].serial, found.agents[0].key)
        assert (None, KEY) == (found.agents[1].serial, found.agents[1].key)
        assert found.revoked[0].at.timestamp() == 1793491200.0

    def test_a_key_is_not_shown(self) -> None:
        """What a log or a traceback shows of an enrolment has no key."""
        assert KEY not in repr(read(FILE, "agents.toml"))

    def test_no_tables(self) -> None:
        """A file that says nothing admits nobody."""
        assert ((), ()) == (read("", "f").agents, read("", "f").revoked)

    def test_faults(self) -> None:
        """Each error has the path of its key, and none shows a key."""
        for before, after, expected in (
            ("'gpu2'", '"gpu1"', "agents[1] (gpu1).node: found"),
            ('serial = "5f"\n', "", "agents[0] (gpu1).serial: missing, expected the serial"),
            ('serial = "5f"', 'serial = "5g"', 'agents[0].serial: found "5g", expected'),
            ('kind = "token"', 'kind = "certificate"', "agents[1] (gpu2).serial: missing"),
            (f'key = "{KEY}"', "", "agents[1] (gpu2).key: missing, expected the 64"),
            (f'"{KEY}"', f'"{KEY}ab"', "agents[1].key: found another value, expected the 64"),
            ('serial = "5f"', f'serial = "5f"\nkey = "{KEY}"', "no such key with the kind"),
            ('node = "gpu3"', 'name = "gpu3"', "unknown key revoked[0].name; the keys here"),
            ("2026-11-01T00:00:00Z", "2026-11-01", "revoked[0].at: found a date or time"),
            ("# The end.", '\n[[revoked]]\nnode="gpu3"\nat=2026-11-01T00:00:00Z', "revoked[1]"),
            ("# The end.", "[[", "not valid TOML"),
        ):
            text = FILE.replace(before, after, 1)
            with self.assertRaises(ConfigError) as caught:
                read(text, "agents.toml")
            assert str(caught.exception).startswith("agents.toml: ")
            assert expected in str(caught.exception)
            assert KEY not in str(caught.exception)


class ChangeTests(SynchronousTestCase):
    def test_an_enrolment_replaces_that_of_its_node(self) -> None:
        """What people wrote elsewhere stays as it is."""
        text = enrolled(FILE, enrolment("gpu1", "ab"))

        assert "# The agents of the laboratory.\n\n# Bob's own machine.\n" in text
        assert text.endswith(
            '# The end.\n\n[[agents]]\nnode = "gpu1"\nkind = "certificate"\nserial = "ab"\n'
            "created = 2026-11-30T17:00:00Z\nexpires = 2028-11-29T17:00:00Z\n"
        )

    def test_a_revocation_ends_the_enrolment(self) -> None:
        """The time of a node's last revocation is kept, and no earlier one."""
        text = revoked(revoked(FILE, RevokedSettings(node="gpu2", at=NOW)), _revoked("gpu3"))
        found = read(text, "f")

        assert ["gpu1"] == [each.node for each in found.agents]
        assert {"gpu2": NOW, "gpu3": NOW} == {each.node: each.at for each in found.revoked}
        assert KEY not in text

    def test_the_first_table(self) -> None:
        """A new file says what it is."""
        assert enrolled("", enrolment("gpu1")).startswith(f"{HEAD}\n[[agents]]\n")
        assert revoked("", _revoked("gpu1")).startswith(f"{HEAD}\n[[revoked]]\n")

    def test_a_form_that_is_not_known(self) -> None:
        """Nothing is changed then: the caller says so."""
        text = 'revoked = [{ node = "gpu1", at = 2026-11-01T00:00:00Z }]\n'

        assert len(read(text, "f").revoked) == 1
        with self.assertRaises(UnknownFormError):
            revoked(text, _revoked("gpu1"))

    @settings(max_examples=50, deadline=None)
    @given(
        st.sampled_from(["", FILE, FILE.replace("\n", "\r\n")]),
        st.lists(st.tuples(st.booleans(), st.sampled_from(["gpu1", "gpu2", "gpu3"])), max_size=6),
    )
    def test_any_course(self, text: str, course: list[tuple[bool, str]]) -> None:
        """After each change the file has what the changes so far say, and its comments."""
        before = read(text, "f")
        agents = {each.node: each for each in before.agents}
        times = {each.node: each.at for each in before.revoked}
        for number, (is_enrolment, node) in enumerate(course):
            at = NOW + timedelta(seconds=number)
            if is_enrolment:
                agents[node] = enrolment(node, f"{number:x}", at)
                text = enrolled(text, agents[node])
            else:
                agents.pop(node, None)
                times[node] = at
                text = revoked(text, RevokedSettings(node=node, at=at))
            found = read(text, "f")
            assert agents == {each.node: each for each in found.agents}
            assert times == {each.node: each.at for each in found.revoked}
        if before.agents:
            assert all(each in text for each in ("laboratory", "Bob's", "sold", "The end"))


def _revoked(node: str) -> RevokedSettings:
    return RevokedSettings(node=node, at=NOW)
