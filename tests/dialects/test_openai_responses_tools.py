"""The tools of a request for a response: as every node takes them, and as the client calls them."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.json_values import decode, encode
from cortexd.dialects.openai_responses import read_request
from tests.dialects.bodies import refusal
from tests.dialects.node_answers import fed
from tests.dialects.response_events import CREATED, event, exchange, read, responder, response

ECHO = {"type": "function", "name": "echo", "parameters": {"type": "object"}, "strict": False}
WAIT = {"type": "function", "name": "wait", "description": "Waits."}
AGENTS = {"type": "namespace", "name": "agents", "description": "Agents.", "tools": [WAIT]}
CACHED_SEARCH = {"type": "web_search", "external_web_access": False}
LIVE_SEARCH = {"type": "web_search", "external_web_access": True}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "c", "arguments": "{}"}


def sent(**fields: object) -> dict[str, Any]:
    body: dict[str, Any] = decode(exchange(**fields).first.body)
    return body


def noted(**fields: object) -> tuple[str, ...]:
    return exchange(**fields).first.approximations


class RequestTests(SynchronousTestCase):
    def test_namespaces(self) -> None:
        """Their functions go up under both names, with all else that they have."""
        tools = [ECHO, AGENTS, LIVE_SEARCH]

        assert [ECHO, WAIT | {"name": "agents.wait"}, LIVE_SEARCH] == sent(tools=tools)["tools"]
        assert ("tools.namespace",) == noted(tools=tools)
        assert "tools" not in sent(tools=[AGENTS | {"tools": []}])

    def test_what_no_node_has(self) -> None:
        """It is left out and named: kinds nobody knows, and a search without the web."""
        custom = {"type": "custom", "name": "apply_patch"}
        tools = [custom, ECHO, CACHED_SEARCH, AGENTS | {"tools": [custom]}]

        assert [ECHO] == sent(tools=tools)["tools"]
        assert {"tools.custom", "tools.web_search", "tools.namespace"} == set(noted(tools=tools))
        assert "tools" not in sent(tools=[custom])

    def test_what_every_node_takes(self) -> None:
        """It goes up as it is, and so does what is of no known shape."""
        shapeless: list[object] = [
            {"type": "namespace", "name": "n"},
            {"type": "namespace", "name": "n", "tools": [7]},
            {"type": "namespace", "name": 7, "tools": []},
            {"type": 7},
            "x",
        ]
        for tools in ([ECHO, LIVE_SEARCH, {"type": "shell"}], [], shapeless, "x", None):
            assert (tools, ()) == (sent(tools=tools)["tools"], noted(tools=tools))

    def test_a_choice_of_what_is_not_there(self) -> None:
        """A call that is demanded and cannot be made is refused, with what is not there."""
        for choice, tools, named in (
            ({"type": "web_search"}, [ECHO, CACHED_SEARCH], "'web_search'"),
            ("required", [CACHED_SEARCH], "'tools'"),
        ):
            error = refusal(read_request, input="hi", tool_choice=choice, tools=tools)
            assert ("tool_choice", True) == (error.param, named in error.message)
        for possible in ("required", "auto", {"type": "function", "name": "echo"}):
            body = sent(tool_choice=possible, tools=[ECHO, CACHED_SEARCH])
            assert possible == body["tool_choice"]
        of_agents = {"type": "function", "name": "wait", "namespace": "agents"}
        assert {"type": "function", "name": "agents.wait"} == (
            sent(tool_choice=of_agents, tools=[AGENTS])["tool_choice"]
        )

    def test_calls_of_before(self) -> None:
        """A call in the conversation has the name that the node gave it."""
        items = [CALL | {"name": "wait", "namespace": "agents"}, CALL | {"name": "echo"}]

        assert [CALL | {"name": "agents.wait"}, CALL | {"name": "echo"}] == sent(input=items)[
            "input"
        ]

    def test_texts_in_parts(self) -> None:
        """They are one text but for the user's, and where there is more than text."""
        two = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
        image = {"type": "input_image", "image_url": "data:,"}
        for item, joined in (
            ({"role": "developer", "content": two}, {"content": "a\n\nb"}),
            ({"role": "assistant", "content": [{**two[0], "type": "output_text"}] * 2}, None),
            ({"role": "user", "content": two}, {}),
            ({"role": "developer", "content": two[:1]}, {}),
            ({"role": "developer", "content": [*two, image]}, {}),
            ({"role": "developer", "content": "ab"}, {}),
            ({"type": "function_call_output", "call_id": "c", "output": two[:1]}, {"output": "a"}),
        ):
            expected = {"content": "a\n\na"} if joined is None else joined
            assert [item | expected] == sent(input=[item])["input"], item

    def test_an_image_that_a_tool_gave(self) -> None:
        """It is told in words: refused, it would end the conversation of which it is a part."""
        image = {"type": "input_image", "image_url": "data:image/png;base64,AA=="}
        seen = {"type": "input_text", "text": "screenshot"}
        words = "[image omitted: the result of a tool can only be text here]"
        for parts, told in (([image], words), ([seen, image], f"screenshot\n\n{words}")):
            item = {"type": "function_call_output", "call_id": "c", "output": parts}
            assert [item | {"output": told}] == sent(input=[item])["input"]
            assert ("tool_output_image",) == noted(input=[item])
        shown = {"role": "user", "content": [seen, image]}
        assert [shown] == sent(input=[shown])["input"]
        assert () == noted(input=[shown])


class AnswerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.known = CALL | {"name": "agents.wait"}
        self.restored = CALL | {"name": "wait", "namespace": "agents"}
        self.of_old = CALL | {"name": "agents.other"}

    def test_whole(self) -> None:
        """A call is of the client's tool, and the tools are those that it has sent."""
        found = responder(stream=False, tools=[ECHO, AGENTS])
        node = response("completed", output=[self.known, self.of_old, {"type": "x"}], tools=[ECHO])

        assert response(
            "completed", output=[self.restored, self.of_old, {"type": "x"}], tools=[ECHO, AGENTS]
        ) == decode(found.take_body(encode(node)))

    def test_streamed(self) -> None:
        """So it is wherever a stream tells of it."""
        found = responder(tools=[AGENTS])
        created, added, done, completed = read(
            fed(
                found,
                event("response.created", response=response("queued", tools=[ECHO])),
                event("response.output_item.added", output_index=0, item=self.known),
                event("response.output_item.done", output_index=0, item=self.known),
                event("response.completed", response=response("completed", output=[self.known])),
            )
        )

        assert [AGENTS] == created["response"]["tools"]
        assert ("wait", "agents") == (added["item"]["name"], added["item"]["namespace"])
        assert self.restored == done["item"]
        assert [self.restored] == completed["response"]["output"]

    def test_nothing_to_restore(self) -> None:
        """An answer to a request whose tools went up as they were is passed on byte by byte."""
        added = event("response.output_item.done", output_index=0, item=self.known)

        assert CREATED + added == fed(responder(tools=[ECHO]), CREATED, added)
