import json

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.doubles.templates.rendering import TemplateError, render

USER = [{"role": "user", "content": "hello"}]

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9) | TEXTS,
    lambda each: st.lists(each, max_size=3) | st.dictionaries(TEXTS, each, max_size=3),
    max_leaves=6,
)


class RenderTests(SynchronousTestCase):
    def test_blocks_leave_no_lines(self) -> None:
        """Blocks are trimmed, at the first line of a template too."""
        template = "  {% for m in messages %}\n{{ m.role }}: {{ m.content }}\n{% endfor %}\nend"

        self.assertEqual("user: hello\nend", render(template, {"messages": USER}))
        self.assertEqual("\nhello", render("\n{{ messages[0].content }}", {"messages": USER}))

    def test_idioms_of_python(self) -> None:
        """The idioms that nodes rewrite, and methods of Python, work."""
        cases = {
            "{% for m in messages[::-1] %}{{ m.content }}{% endfor %}": "twoone",
            "{% for i in range(messages|length - 1, -1, -1) %}{{ i }}{% endfor %}": "0",
            "{% generation %}{{ messages[0].content }}{% endgeneration %}": "one",
            "{{ messages[1].content.upper().startswith('TW') | tojson }}": "true",
            "{{ {'a': [none, 'é<']} | tojson }}": '{"a": [null, "é<"]}',
            "{{ [1] | tojson(indent=2) }}": "[\n  1\n]",
            "{{ strftime_now('%%') }}{{ missing | tojson }}": "%null",
        }
        messages = [*({"role": "user", "content": text} for text in ("one", "two"))]

        self.assertEqual(cases, {case: render(case, {"messages": messages}) for case in cases})

    def test_values_are_not_those_of_python(self) -> None:
        """A key that a mapping lacks is undefined, even where Python has a method of the name."""
        parameters = {"type": "object", "properties": {"a": {"type": "string"}}}
        tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
        fields = {"messages": USER, "tools": [tool]}
        template = "{% if tools[0].function.parameters.properties.a.items %}wrong{% endif %}"

        self.assertEqual("", render(template, fields))
        with self.assertRaisesRegex(TemplateError, "has no method named append"):
            render("{{ messages.append(1) }}", fields)

    def test_errors_have_the_words_of_the_node(self) -> None:
        """An error has one line of words, and ends with the line of the template."""
        cases = {
            "\n\n{{ raise_exception('Be nice!') }}": (
                "invalid operation: Be nice! (in chat_template:3)"
            ),
            "a\n{{ 'a' + messages }}": (
                "invalid operation: tried to use + operator on unsupported types "
                "string and sequence (in chat_template:2)"
            ),
            "{% for k, v in messages[0].content|items %}{% endfor %}": (
                "invalid operation: cannot convert value into pairs (in chat_template:1)"
            ),
            "\n{% wrong %}": "syntax error: unknown statement wrong (in chat_template:2)",
        }
        for template, words in cases.items():
            with self.assertRaises(TemplateError) as raised:
                render(template, {"messages": USER})
            self.assertEqual(words, str(raised.exception))

    def test_gemma_answers_after_results(self) -> None:
        """A prompt of Gemma 4 that ends in a result gets the turn that the template left out."""
        template = (
            "<|tool_call><tool_call|>{{ messages[0].tool_responses[0].name }}<tool_response|>"
        )
        result = {"role": "tool", "content": "7", "name": "add"}

        prompt = render(template, {"messages": [result]})

        self.assertTrue(prompt.endswith("add<tool_response|><|turn>model\n"))


@settings(max_examples=50, deadline=None)
@given(JSON_VALUES, TEXTS)
def test_values_are_rendered_as_they_are(value: object, text: str) -> None:
    """No text of a request is taken for a part of the template, and no value changes."""
    function = {"name": "f", "parameters": {"default": value}}
    fields = {
        "messages": [{"role": "user", "content": text}],
        "tools": [{"type": "function", "function": function}],
    }

    assert text == render("{{ messages[0].content }}", fields)
    assert value == json.loads(render("{{ tools[0].function.parameters.default|tojson }}", fields))
