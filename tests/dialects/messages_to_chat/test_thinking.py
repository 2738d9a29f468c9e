from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.wire.profile import Profile, ReasoningControl, ThinkingWish
from tests.covers import covers
from tests.dialects.anthropic_bodies import parsed, refused, sent, terms

TOGGLE = Profile()
EFFORT = Profile(reasoning_control=ReasoningControl.EFFORT)
NONE = Profile(reasoning_control=ReasoningControl.NONE)


def controls(profile: Profile = TOGGLE, /, **fields: Any) -> dict[str, Any]:
    """Return what a node is told of thinking."""
    names = {"enable_thinking", "reasoning_effort", "thinking", "output_config"}
    return {name: value for name, value in sent(profile, **fields).items() if name in names}


def noted(profile: Profile = TOGGLE, /, **fields: Any) -> tuple[str, ...]:
    exchange = parsed(**fields).exchange("m", [profile], random_id="x", now=0)
    return exchange.first.approximations


def enabled(budget: object, **more: object) -> dict[str, Any]:
    return {"type": "enabled", "budget_tokens": budget, **more}


class ThinkingTests(SynchronousTestCase):
    @covers("2.1 thinking absent")
    def test_absent(self) -> None:
        """Thinking absent: off to Messages, so a profile with a toggle is told; else nothing."""
        for fields in ({}, {"thinking": None}):
            assert {"enable_thinking": False} == controls(**fields)
            assert ("thinking_absent",) == noted(**fields) == noted(EFFORT, **fields)
            assert {} == controls(EFFORT, **fields) == controls(NONE, **fields)
            assert () == noted(NONE, **fields)
            assert ThinkingWish.NONE is terms(**fields).thinking

    @covers("2.1 thinking disabled")
    def test_disabled(self) -> None:
        """Thinking disabled: the toggle alone, and exact there."""
        fields = {"thinking": {"type": "disabled"}}

        assert {"enable_thinking": False} == controls(**fields)
        assert () == noted(**fields)
        assert {} == controls(EFFORT, **fields)
        assert ("thinking_disabled",) == noted(EFFORT, **fields)
        assert ThinkingWish.NONE is terms(**fields).thinking

    @covers("T28", "2.1 thinking disabled")
    def test_t28_disabled_with_effort(self) -> None:
        """T28: thinking disabled and effort high are one control upstream: the effort is dropped.

        The same holds where thinking is absent.
        """
        fields = {"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}}

        assert {"enable_thinking": False} == controls(**fields)
        assert ("effort",) == noted(**fields)
        assert {"enable_thinking": False} == controls(output_config={"effort": "high"})
        assert {} == controls(EFFORT, **fields)

    @covers("2.1 output_config.effort")
    def test_efforts_of_the_template(self) -> None:
        """Where the template's efforts are known, it gets the nearest, from a budget too."""
        low = Profile(efforts=("low",))
        for fields in (
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
            {"thinking": enabled(31_999)},
        ):
            assert "low" == controls(low, **fields)["reasoning_effort"]
            assert "effort" in noted(low, **fields)
            assert {"enable_thinking": True} == controls(Profile(efforts=()), **fields)

    @covers("2.1 thinking enabled")
    def test_enabled(self) -> None:
        """Thinking enabled + budget_tokens: <4096 low, <16384 medium, else high; not enforced."""
        for budget, effort in (
            (1, "low"),
            (4_095, "low"),
            (4_096, "medium"),
            (16_383, "medium"),
            (16_384, "high"),
            (31_999, "high"),
        ):
            fields = {"thinking": enabled(budget)}
            assert {"enable_thinking": True, "reasoning_effort": effort} == controls(**fields)
            assert {"reasoning_effort": effort} == controls(EFFORT, **fields)
            assert {} == controls(NONE, **fields)
            assert ("thinking_budget",) == noted(**fields) == noted(EFFORT, **fields)
            assert ThinkingWish.SHOWN is terms(**fields).thinking
        for wrong in (None, 0, "1024", 1.5):
            assert "thinking.budget_tokens" == refused(thinking=enabled(wrong)).param

    def test_enabled_with_effort(self) -> None:
        """An effort the client names counts, and not the one its budget would be."""
        fields = {"thinking": enabled(1_024), "output_config": {"effort": "high"}}

        assert {"enable_thinking": True, "reasoning_effort": "high"} == controls(**fields)

    @covers("2.1 thinking adaptive")
    def test_adaptive(self) -> None:
        """Thinking adaptive / between_tools: thinking is on, with the effort if one is named.

        A type nobody knows is taken for one of these: clients learn new ones before we do.
        """
        for kind in ("adaptive", "between_tools", "whenever"):
            thinking = {"type": kind}
            assert {"enable_thinking": True} == controls(thinking=thinking)
            assert {"enable_thinking": True, "reasoning_effort": "medium"} == controls(
                thinking=thinking, output_config={"effort": "medium"}
            )
            assert ("thinking_adaptive",) == noted(thinking=thinking)
            assert ThinkingWish.SHOWN is terms(thinking=thinking).thinking

    @covers("2.1 thinking.display")
    def test_display(self) -> None:
        """thinking.display omitted: withheld from the client; summarized is shown raw."""
        for display, wish in (
            ("omitted", ThinkingWish.WITHHELD),
            ("summarized", ThinkingWish.SHOWN),
        ):
            fields = {"thinking": {"type": "adaptive", "display": display}}
            assert wish is terms(**fields).thinking
            assert "thinking_display" in noted(**fields)
        plain = {"thinking": {"type": "adaptive", "display": None}}
        assert ThinkingWish.SHOWN is terms(**plain).thinking
        assert "thinking_display" not in noted(**plain)

    @covers("2.1 output_config.effort")
    def test_effort(self) -> None:
        """output_config.effort: the same on mistral.rs, where max = xhigh; elsewhere up to high."""
        for effort, toggled, strict in (
            ("low", "low", "low"),
            ("medium", "medium", "medium"),
            ("high", "high", "high"),
            ("xhigh", "xhigh", "high"),
            ("max", "xhigh", "high"),
        ):
            fields = {"thinking": {"type": "adaptive"}, "output_config": {"effort": effort}}
            assert toggled == controls(**fields)["reasoning_effort"]
            assert {"reasoning_effort": strict} == controls(EFFORT, **fields)
            assert ("thinking_adaptive",) == noted(**fields)
            assert (effort != strict) == ("effort" in noted(EFFORT, **fields))
            assert {} == controls(NONE, **fields)
            assert "effort" in noted(NONE, **fields)

    @covers("T27")
    def test_t27_efforts_a_node_refuses(self) -> None:
        """T27: minimal and none are never forwarded, nor is any effort that nobody knows."""
        for effort in ("minimal", "none", "ludicrous"):
            for thinking in (None, {"type": "adaptive"}):
                fields = {"thinking": thinking, "output_config": {"effort": effort}}
                assert "reasoning_effort" not in controls(**fields)
                assert "effort" in noted(**fields)

    def test_refusals(self) -> None:
        """What is of the wrong type is refused by its path."""
        cases: list[tuple[dict[str, Any], str]] = [
            ({"thinking": "on"}, "thinking"),
            ({"thinking": {}}, "thinking.type"),
            ({"thinking": {"type": ["enabled"]}}, "thinking.type"),
            ({"thinking": {"type": "adaptive", "display": 1}}, "thinking.display"),
            ({"output_config": {"effort": 3}}, "output_config.effort"),
            ({"output_config": "high"}, "output_config"),
        ]
        for fields, param in cases:
            assert param == refused(**fields).param
