"""Conversations with calls and their results."""

from tests.templates.conversation import (
    Assistant,
    Call,
    Dialect,
    JsonObject,
    Picture,
    Result,
    Shape,
    System,
    Turn,
    User,
)
from tests.templates.shapes.parts import (
    AGAIN,
    ANSWERED,
    ASKED,
    CALL,
    EVERY,
    LOOKUP,
    OPENAI,
    OTHER,
    OTHER_RESULT,
    RESULT,
    SYSTEM,
    tool,
)

CALLED = (SYSTEM, ASKED, Assistant(calls=(CALL,)))
CALLED_TWICE = (SYSTEM, ASKED, Assistant(calls=(CALL, OTHER)))


def shape(name: str, *turns: Turn) -> Shape:
    """Return a shape with one tool."""
    return Shape(name, turns, tools=LOOKUP)


def called(name: str, *calls: Call, dialects: frozenset[Dialect] = EVERY) -> Shape:
    """Return a shape with calls in one turn, whose results have arrived."""
    results = (Result(call.id, (f"res{index}",)) for index, call in enumerate(calls))
    turns: tuple[Turn, ...] = (SYSTEM, ASKED, Assistant(calls=calls), *results)
    return Shape(name, turns, dialects, tools=LOOKUP)


def argued(name: str, arguments: str | None, *shown: str) -> Shape:
    """Return a shape with arguments that only the dialects of OpenAI can have."""
    return called(name, Call("call_1", arguments, shown=shown), dialects=OPENAI)


TURNS = (
    shape("call and result", *CALLED, RESULT),
    shape("parallel calls", *CALLED_TWICE, RESULT, OTHER_RESULT),
    shape("results in another order", *CALLED_TWICE, OTHER_RESULT, RESULT),
    shape(
        "calls in turn",
        *(*CALLED, RESULT, Assistant(calls=(OTHER,)), OTHER_RESULT, ANSWERED, AGAIN),
    ),
    shape("text beside a call", *CALLED[:2], Assistant(("besone",), (CALL,)), RESULT),
    shape(
        "text beside a call in the past",
        *(*CALLED[:2], Assistant(("besone",), (CALL,)), RESULT, ANSWERED, AGAIN),
    ),
    shape(
        "text beside parallel calls",
        *(*CALLED[:2], Assistant(("besone",), (CALL, OTHER)), RESULT, OTHER_RESULT),
    ),
    shape("user after a result", *CALLED, RESULT, AGAIN),
    shape("system after a result", *CALLED, RESULT, System(("midone",))),
    shape("thoughts and a call", *CALLED[:2], Assistant((), (CALL,), "Hmm."), RESULT),
    Shape("calls without tools", (*CALLED, RESULT)),
    shape("call without result", *CALLED, AGAIN),
    shape("one of two without result", *CALLED_TWICE, RESULT, AGAIN),
    shape("result without call", SYSTEM, ASKED, ANSWERED, RESULT, AGAIN),
    shape(
        "arrays in each role",
        System(("sysone", "systwo"), in_array=True),
        User(("useone", "usetwo"), in_array=True),
        Assistant(("ansone", "anstwo"), (CALL,), in_array=True),
        Result("call_1", ("resone", "restwo"), in_array=True),
        Assistant(("ansthree",), in_array=True),
        User(("usethree",), in_array=True),
    ),
)

ARGUMENTS = (
    argued("empty arguments", ""),
    argued("null arguments", None),
    argued("broken arguments", '{"path":"argbro', "argbro"),
    argued("arguments of a list", '["arglis"]', "arglis"),
    called("no arguments", Call("call_1", "{}")),
    called(
        "nested arguments",
        Call("call_1", '{"a":{"b":[null,1.5,"argone"]},"c":"größe"}', shown=("argone", "größe")),
    ),
    called(
        "long id", Call("toolu_01A09q90qw90lq917835lq9", '{"path":"argone"}', shown=("argone",))
    ),
    called(
        "ids of other forms",
        Call(
            "fc_0123456789abcdef0123456789abcdef0123456789abcdef",
            '{"a":"argone"}',
            shown=("argone",),
        ),
        Call("functions.lookup:1", '{"a":"argtwo"}', shown=("argtwo",)),
    ),
    called("nine letters as id", Call("a1B2c3D4e", '{"path":"argone"}', shown=("argone",))),
)

RESULTS = (
    shape("results of parts", *CALLED, Result("call_1", ("resone", "restwo"), in_array=True)),
    shape("picture of a result", *CALLED, Result("call_1", ("resone", Picture()), in_array=True)),
    shape(
        "a picture alone", *CALLED, Result("call_1", (Picture(),), in_array=True), ANSWERED, AGAIN
    ),
    shape(
        "pictures of two results",
        *CALLED_TWICE,
        Result("call_1", ("resone", Picture()), in_array=True),
        Result("call_2", ("restwo", Picture()), in_array=True),
        AGAIN,
    ),
    shape("failed call", *CALLED, Result("call_1", ("resone",), is_error=True)),
    shape("empty result", *CALLED, Result("call_1", ("",))),
    shape("result of JSON", *CALLED, Result("call_1", ('{"a":"resone"}',), ("resone",))),
)


def parameters(name: str, schema: JsonObject) -> Shape:
    """Return a shape with a tool of such parameters."""
    return Shape(name, (SYSTEM, ASKED), tools=(tool("odd", schema),))


BARE: JsonObject = {"parameters": {"type": "object", "properties": {}}}

SCHEMAS = (
    parameters("tool without properties", {"type": "object"}),
    Shape("tool without description", (SYSTEM, ASKED), tools=({"name": "odd"} | BARE,)),
    parameters(
        "tool with alternatives",
        {
            "type": "object",
            "properties": {
                "a": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
                "b": {"type": ["string", "null"], "enum": ["x", None]},
                "c": {"type": "array", "items": {"$ref": "#/$defs/D"}},
                "d": {},
            },
            "$defs": {"D": {"type": "object", "properties": {"e": {"const": 1}}}},
            "additionalProperties": False,
        },
    ),
    Shape("several tools", (SYSTEM, ASKED), tools=(tool("one"), tool("two"), tool("python"))),
)

SHAPES = (*TURNS, *ARGUMENTS, *RESULTS, *SCHEMAS)
