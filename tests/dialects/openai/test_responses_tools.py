"""The tools of a request for a response: as every node takes them, and as the client calls them."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.routes.responses import read_request
from cortexd.dialects.wire.json_values import decode, encode
from tests.dialects.bodies import refusal
from tests.dialects.node_answers import fed
from tests.dialects.response_events import (
    CREATED,
    NATIVE,
    event,
    exchange,
    read,
    responder,
    response,
)

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

    def test_one_call_at_a_time(self) -> None:
        """The wish is left out and named, where there are tools: a node calls it its own fault."""
        for tools, words in (([ECHO], ("parallel_tool_calls",)), ([], ()), (None, ())):
            fields = {"tools": tools, "parallel_tool_calls": False}
            assert "parallel_tool_calls" not in sent(**fields)
            assert words == noted(**fields)
        for flag in (True, None, "no"):
            assert flag == sent(tools=[ECHO], parallel_tool_calls=flag)["parallel_tool_calls"]

    def test_a_choice_among_some(self) -> None:
        """Only the allowed tools go up, because nodes reject this kind of choice."""

        def allowing(mode: str, *tools: object) -> dict[str, object]:
            return {"type": "allowed_tools", "mode": mode, "tools": list(tools)}

        named = {"type": "function", "name": "echo"}
        both = [ECHO, AGENTS, LIVE_SEARCH]
        found = sent(tools=both, tool_choice=allowing("required", named))
        assert ([ECHO], "required") == (found["tools"], found["tool_choice"])
        inner = {"type": "function", "name": "wait", "namespace": "agents"}
        search = {"type": "web_search"}
        found = sent(tools=both, tool_choice=allowing("auto", inner, search))
        assert ["agents.wait", None] == [tool.get("name") for tool in found["tools"]]
        assert "auto" == found["tool_choice"]
        custom = {"type": "custom", "name": "patch"}
        found = sent(tools=[custom, ECHO], tool_choice=allowing("auto", custom))
        assert not {"tools", "tool_choice"} & found.keys()
        assert "tool_choice" in noted(tools=both, tool_choice=allowing("auto", named))

    def test_a_choice_of_what_is_not_there(self) -> None:
        """A call that is demanded and cannot be made is refused, with what is not there."""
        wait = {"type": "function", "name": "wait"}
        cases: tuple[tuple[Any, Any, str], ...] = (
            ({"type": "web_search"}, [ECHO, CACHED_SEARCH], "'web_search'"),
            ("required", [CACHED_SEARCH], "'tools'"),
            ("required", None, "'tools'"),
            ("required", [], "'tools'"),
            (wait, None, "'wait'"),
            (wait, [ECHO, AGENTS], "'wait'"),
            (wait | {"namespace": "others"}, [ECHO, AGENTS], "'others.wait'"),
        )
        for choice, tools, named in cases:
            error = refusal(read_request, NATIVE, input="hi", tool_choice=choice, tools=tools)
            assert ("tool_choice", True) == (error.param, named in error.message)
        for possible in ("required", "auto", {"type": "function", "name": "echo"}):
            body = sent(tool_choice=possible, tools=[ECHO, CACHED_SEARCH])
            assert possible == body["tool_choice"]
        of_agents = {"type": "function", "name": "wait", "namespace": "agents"}
        assert {"type": "function", "name": "agents.wait"} == (
            sent(tool_choice=of_agents, tools=[AGENTS])["tool_choice"]
        )


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
