from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.wire.contents import reminder
from cortexd.dialects.wire.profile import MISTRALRS, MidSystem, Profile
from tests.dialects.fitting.conversations import ANSWER, IMAGE
from tests.dialects.fitting.fitted import fitted, words_for

HELLO: dict[str, Any] = {"role": "user", "content": "hi"}
KNOWS_NONE = Profile(system_role=False)


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


class SystemTests(SynchronousTestCase):
    def test_at_the_front(self) -> None:
        """Those at the front are one, whatever their role is called."""
        messages = [system("a"), {"role": "developer", "content": "b"}, system(""), HELLO]
        for policy in MidSystem:
            profile = Profile(mid_system=policy)
            assert [system("a\nb"), HELLO] == fitted(messages, profile)
            assert set() == words_for(messages, profile)

    def test_a_template_without_the_role(self) -> None:
        """Its text is in the first user turn, before what the user says, or is that turn."""
        assert [{"role": "user", "content": "a\n\nhi"}] == fitted([system("a"), HELLO], KNOWS_NONE)
        shown = {"role": "user", "content": [IMAGE]}
        assert [{"role": "user", "content": [{"type": "text", "text": "a"}, IMAGE]}] == fitted(
            [system("a"), shown], KNOWS_NONE
        )
        assert [{"role": "user", "content": "a"}, ANSWER] == fitted(
            [system("a"), ANSWER], KNOWS_NONE
        )
        assert {"system_role"} == words_for([system("a"), HELLO], KNOWS_NONE)
        passing = Profile(system_role=False, mid_system=MidSystem.PASS)
        found = fitted([HELLO, ANSWER, system("b"), HELLO], passing)
        assert f"{reminder('b')}\nhi" == found[2]["content"]

    def test_nothing_but_a_system_text(self) -> None:
        """A template wants a question, so that one is put behind it."""
        assert ["system", "user"] == [
            message["role"] for message in fitted([system("a")], MISTRALRS)
        ]
        assert {"opening_turn"} == words_for([system("a")], MISTRALRS)

    def test_an_empty_one_in_the_middle(self) -> None:
        """It leaves no trace."""
        assert [HELLO, ANSWER, HELLO] == fitted([HELLO, ANSWER, system(""), HELLO], MISTRALRS)
