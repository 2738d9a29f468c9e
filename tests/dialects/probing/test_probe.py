import json
from dataclasses import replace
from itertools import takewhile
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.probing.learned import EFFORTS, Learned
from cortexd.dialects.probing.probe import Probe
from cortexd.dialects.wire.profile import MidSystem, ReasoningControl, ToolIdFormat
from tests.doubles.chat_template import ChatTemplate

MOST_QUESTIONS = 24
KIND = ChatTemplate(picture_tokens=256)
"""A template that shows everything, of a model that sees."""

STRICT = ChatTemplate(
    middle="raises", users="raises", any_id=False, parallel="raises", efforts=("low", "xhigh")
)


def asked(probe: Probe, template: ChatTemplate, failing: int | None = None) -> int:
    """Answer a probe as a node with this template; the question of number ``failing`` fails."""
    number = 0
    while probe.question is not None:
        answer = template.answer(probe.question)
        probe.answer(*((503, b"busy") if number == failing else answer))
        number += 1
    return number


def learned(template: ChatTemplate, failing: int | None = None) -> Learned:
    probe = Probe("acme/small")
    assert asked(probe, template, failing) <= MOST_QUESTIONS
    return probe.learned


def shared_length(one: str, other: str) -> int:
    """Return how many characters two prompts share from their beginning on."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


class AbilityTests(SynchronousTestCase):
    def test_template_that_takes_everything(self) -> None:
        """Twenty-two questions name the model and find each ability of a kind template."""
        probe = Probe("acme/small")

        assert probe.question is not None
        assert "acme/small" == json.loads(probe.question)["model"]
        assert 22 == asked(probe, KIND)
        assert probe.learned == Learned(
            system_role=True,
            mid_system=MidSystem.PASS,
            developer=True,
            text_arrays=True,
            alternate=False,
            tools=True,
            tool_turns=True,
            parallel_calls=True,
            text_beside_calls=True,
            user_after_tool=True,
            tool_id_format=ToolIdFormat.ANY,
            efforts=EFFORTS,
            vision=True,
        )

    def test_strict_template(self) -> None:
        """Errors of the template tell as much as counts, also with a backtrace behind them."""
        found = learned(STRICT)

        assert (MidSystem.USER, True) == (found.mid_system, found.alternate)
        assert (ToolIdFormat.MISTRAL9, True) == (found.tool_id_format, found.tool_turns)
        assert found.parallel_calls is False
        assert ("low", "xhigh") == found.efforts

    def test_system(self) -> None:
        """A system text that is lost or raises teaches that the template knows none."""
        for rule in ("lost", "raises"):
            found = learned(replace(KIND, system=rule, default_system="You are kind. " * 30))

            assert (False, MidSystem.USER) == (found.system_role, found.mid_system), rule

    def test_system_in_the_middle(self) -> None:
        """A later system text passes only where it is shown as a turn of its own."""
        for rule in ("lost", "raises", "moved"):
            assert MidSystem.USER is learned(replace(KIND, middle=rule)).mid_system, rule

    def test_one_rule_each(self) -> None:
        """Whatever a template loses or raises at is known as such, and nothing else changes."""
        kind = learned(KIND)
        for rule in ("lost", "raises"):
            for field, ability in (
                ("developer", "developer"),
                ("arrays", "text_arrays"),
                ("parallel", "parallel_calls"),
                ("beside", "text_beside_calls"),
                ("tools", "tools"),
                ("after_result", "user_after_tool"),
            ):
                if (field, rule) not in (("tools", "raises"), ("arrays", "raises")):
                    rules: dict[str, Any] = {field: rule}
                    expected: dict[str, Any] = {ability: False}
                    found = learned(replace(KIND, **rules))
                    assert replace(kind, **expected) == found, (field, rule)
            assert learned(replace(KIND, users=rule)).alternate is True
            assert learned(replace(KIND, calls=rule)).tool_turns is False

    def test_call_that_gives_way_to_text(self) -> None:
        """A template that shows the text in place of the call shows no text beside calls."""
        assert learned(replace(KIND, beside="instead")).text_beside_calls is False

    def test_system_that_is_lost_before_calls(self) -> None:
        """A template that loses the system text beside calls knows no system role."""
        found = learned(replace(KIND, system_before_calls="lost"))

        assert (False, MidSystem.USER) == (found.system_role, found.mid_system)
        assert found.tool_turns is True

    def test_array_that_is_printed(self) -> None:
        """A template that prints an array shows its code, and cannot show a picture."""
        found = learned(replace(KIND, arrays="printed"))

        assert (False, False) == (found.text_arrays, found.vision)

    def test_default_system_prompt(self) -> None:
        """A long default prompt, which a system text replaces, misleads no comparison."""
        assert learned(KIND) == learned(replace(KIND, default_system="You are kind. " * 200))

    def test_thinking(self) -> None:
        """A switch is known by another count or another token, and efforts where it is ignored."""
        for switch in ("counted", "equal"):
            for shows in (True, False):
                found = learned(replace(KIND, switch=switch, shows_effort=shows))
                assert ReasoningControl.TOGGLE is found.reasoning_control, switch

        found = learned(replace(KIND, shows_effort=True))
        assert (ReasoningControl.EFFORT, EFFORTS) == (found.reasoning_control, found.efforts)
        assert ReasoningControl.EFFORT is learned(STRICT).reasoning_control
        assert learned(replace(KIND, efforts=())).efforts == ()

    def test_picture(self) -> None:
        """A picture is many tokens to a model that sees, none or an error to a blind one."""
        seen = {tokens: learned(replace(KIND, picture_tokens=tokens)) for tokens in (0, 3, 300)}

        assert [False, None, True] == [found.vision for found in seen.values()]
        assert learned(replace(KIND, picture_tokens=None)).vision is False


class FailureTests(SynchronousTestCase):
    def test_no_chat_model(self) -> None:
        """A probe whose first question gets no count ends at once and teaches nothing."""
        for answer in ((503, b""), (0, b""), (200, b"{}"), (422, b'{"message": "no chat"}')):
            probe = Probe("acme/small")
            probe.answer(*answer)

            assert probe.question is None
            assert probe.learned.is_empty

    def test_no_counts(self) -> None:
        """A node whose counts do not move teaches only what its errors say."""
        probe = Probe("acme/small")
        while probe.question is not None:
            status, body = STRICT.answer(probe.question)
            probe.answer(status, b'{"usage": {"prompt_tokens": 7}}' if status == 200 else body)

        assert probe.learned == Learned(
            mid_system=None,
            alternate=True,
            tool_id_format=ToolIdFormat.MISTRAL9,
            efforts=("low", "xhigh"),
            reasoning_control=ReasoningControl.EFFORT,
            vision=None,
        )

    def test_counts_without_what_is_cached(self) -> None:
        """A node that counts only what it had to read teaches nothing, and has not failed."""
        probe = Probe("acme/small")
        cached: list[str] = []
        while probe.question is not None:
            prompt = KIND.render(json.loads(probe.question))
            known = max((shared_length(each, prompt) for each in cached), default=0)
            cached.append(prompt)
            count = len(prompt[known:].split()) + 1
            probe.answer(200, json.dumps({"usage": {"prompt_tokens": count}}).encode())

        assert (True, 0) == (probe.learned.is_empty, probe.failures)

    def test_failed_question(self) -> None:
        """A question that fails leaves abilities unknown, and never changes one."""
        for template in (KIND, STRICT, replace(KIND, system="raises", shows_effort=True)):
            whole = learned(template).to_json()
            for failing in range(1, MOST_QUESTIONS):
                part = learned(template, failing).to_json()
                assert part.items() <= whole.items(), (failing, part)

    @given(st.lists(st.tuples(st.sampled_from([0, 200, 422, 500]), st.binary(max_size=80))))
    @settings(max_examples=50)
    def test_any_answers(self, answers: list[tuple[int, bytes]]) -> None:
        """Whatever a node answers, a probe raises nothing and ends."""
        probe = Probe("acme/small")
        probe.answer(*KIND.answer(probe.question or b""))
        for answer in [*answers, *[(500, b"")] * MOST_QUESTIONS]:
            probe.answer(*answer)

        assert probe.question is None
