from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.wire.profile import MISTRALRS
from tests.templates.conversation import Assistant, Call, Result, Shape, System, User
from tests.templates.judging import judge

TALK = Shape(
    "talk", (System(("sysone",)), User(("useone",)), Assistant(("ansone",)), User(("end",)))
)
A, B = Call("call_a", "{}", "first"), Call("call_b", "{}", "second")
RESULTS = (Result("call_b", ("resb",)), Result("call_a", ("resa",)))
CALLS = Shape("calls", (User(("useone",)), Assistant(calls=(A, B)), *RESULTS))


def reason(template: str) -> str:
    """Return the judgement about the chat TALK for a template."""
    return judge(TALK, "chat", template, MISTRALRS)


class JudgeTests(SynchronousTestCase):
    def test_good(self) -> None:
        """A prompt with every word is good, whatever stands between them."""
        template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}useone"
        self.assertEqual("", reason(template))

    def test_faults(self) -> None:
        """A bad cell says what happened."""
        cases = {
            "{{ raise_exception('No!') }}": "raised: invalid operation: No! (in chat_template:1)",
            "{{ messages[0].content }}": "lost: useone",
            "{% for m in messages|reverse %}{{ m.content }}{% endfor %}": "misplaced: useone",
            "{{ [{'type': 'text', 'text': 'x'}] }}": "printed: the code of a list of parts",
        }
        self.assertEqual(cases, {template: reason(template) for template in cases})

    def test_refusal(self) -> None:
        """A request that the gateway refuses is a bad cell, with the error's words."""
        broken = Shape("broken", (), chat={"messages": None})
        self.assertEqual("refused: 'messages' is required", judge(broken, "chat", "", MISTRALRS))

    def test_orders_of_calls(self) -> None:
        """Results may stand as they were sent, in the order of their calls, or after each call."""
        self.assertEqual(
            [
                ["useone", "first", "second", "resb", "resa"],
                ["useone", "first", "second", "resa", "resb"],
                ["useone", "first", "resa", "second", "resb"],
            ],
            CALLS.orders(),
        )
