"""Fields of a chat in a response's request, by translation.md 10.1."""

from twisted.trial.unittest import SynchronousTestCase

from tests.covers import covers
from tests.dialects.response_bodies import refused, sent


class ExtensionTests(SynchronousTestCase):
    @covers("10.1 fields of a chat")
    def test_a_chat_takes_them_as_they_are(self) -> None:
        """Good values go up unchanged; a limit below 0 means that there is none."""
        given = {"stop": ["a"], "seed": 7, "top_k": 5, "min_p": 0.1, "logit_bias": {"1": 2}}

        found = sent(input="hi", **given)
        assert given == {name: found[name] for name in given}
        assert "top_k" not in sent(input="hi", top_k=-1)

    @covers("10.1 fields of a chat")
    def test_a_wrong_type_is_refused_by_its_name(self) -> None:
        """A node would reject the whole body without saying which field is wrong."""
        for name, value in (
            ("stop", [7]),
            ("seed", -1),
            ("top_k", {}),
            ("min_p", "a"),
            ("repetition_penalty", True),
            ("enable_thinking", "yes"),
            ("grammar", "a"),
        ):
            assert name == refused(input="hi", **{name: value})
        assert "logit_bias.1" == refused(input="hi", logit_bias={"1": "a"})
        assert "response_format.type" == refused(input="hi", response_format={})
