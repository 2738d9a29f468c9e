import json
from dataclasses import fields

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.probing.learned import EFFORTS, FOR_PEOPLE, Learned
from cortexd.dialects.wire.profile import MISTRALRS, MidSystem, ReasoningControl, ToolIdFormat

LEARNED = st.builds(
    Learned,
    system_role=st.none() | st.booleans(),
    mid_system=st.none() | st.sampled_from(MidSystem),
    alternate=st.none() | st.booleans(),
    tool_id_format=st.none() | st.sampled_from(ToolIdFormat),
    efforts=st.none() | st.sampled_from([(), ("low",), EFFORTS]),
    reasoning_control=st.none() | st.sampled_from(ReasoningControl),
    vision=st.none() | st.booleans(),
)


class LearnedTests(SynchronousTestCase):
    @given(LEARNED)
    def test_json(self, learned: Learned) -> None:
        """What a probe found survives the way through JSON, and only known abilities go there."""
        value = json.loads(json.dumps(learned.to_json()))

        assert learned == Learned.from_json(value)
        assert learned.is_empty is (value == {})

    @given(LEARNED)
    def test_applied(self, learned: Learned) -> None:
        """A known ability replaces the profile's, and an unknown one leaves it."""
        applied = learned.applied_to(MISTRALRS)

        assert applied is learned.applied_to(applied)
        for field in fields(Learned):
            if field.name not in FOR_PEOPLE and field.name != "efforts":
                found = getattr(learned, field.name)
                before = getattr(MISTRALRS, field.name)
                assert getattr(applied, field.name) == (before if found is None else found)

    def test_efforts(self) -> None:
        """A template that accepts each effort has the profile of one that was never asked."""
        assert Learned(efforts=EFFORTS).applied_to(MISTRALRS) is MISTRALRS
        assert ("low",) == Learned(efforts=("low",)).applied_to(MISTRALRS).efforts

    def test_foreign_json(self) -> None:
        """A name of another version is ignored, a value of another type is a ValueError."""
        assert Learned(vision=True) == Learned.from_json({"vision": True, "smell": True})
        foreign: tuple[object, ...] = ([], "yes", {"vision": "perhaps"}, {"mid_system": "gone"})
        for value in foreign:
            with self.assertRaises(ValueError):
                Learned.from_json(value)

    def test_words(self) -> None:
        """Each ability has a word for people, also if it is unknown."""
        words = Learned(vision=False, mid_system=MidSystem.PASS, efforts=("low", "high")).words()

        assert ("no", "pass") == (words["vision"], words["mid_system"])
        assert ("low high", "unknown") == (words["efforts"], words["tools"])
