"""A response's request for a node that answers it itself, almost unchanged.

This is for ``[[nodes]] responses = "native"``: the node runs its own tools, and stores its
responses under ids of its own. ``responses_stream`` handles streams, ``responses_tools`` tools, and
``responses_input`` the input.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from cortexd.dialects.nodes.answers import read_id, read_whole
from cortexd.dialects.nodes.chat_stream import Unstreamed
from cortexd.dialects.openai.chat_checks import check_limit
from cortexd.dialects.openai.responses_input import check_input, input_for_any_node
from cortexd.dialects.openai.responses_stream import Opening, ResponseStream, read_usage
from cortexd.dialects.openai.responses_tools import ToolNames, tools_for_any_node
from cortexd.dialects.prefixes.keys import response_keys
from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.exchange import Responder, Translation, has_own_tools
from cortexd.dialects.wire.json_values import JsonObject, encode, read_flag
from cortexd.dialects.wire.profile import Profile
from cortexd.errors import BadRequest

PATH = "/v1/responses"


def pass_on_response(
    fields: JsonObject,
    profile: Profile,
    model: str,
    created_at: int,
    opening: Opening,
    *,
    is_kept: bool,
) -> Translation:
    """Return the request with these ``fields`` for a node, with the catalogue's ``model``.

    The answer has the node's own id, by which the client can request it again; these ids are
    random, and do not collide with those of other nodes (nodes.md 6). Only the stream of a response
    that is not stored may have an id of ours. Raises BadRequest.
    """
    if fields.get("max_tool_calls") is not None:  # a node would answer with an internal error
        raise BadRequest(
            "'max_tool_calls' is not supported: nodes have no such limit; leave it out",
            param="max_tool_calls",
            code="unsupported_parameter",
        )
    check_limit(fields)
    check_input(fields.get("input"), profile)
    streams = read_flag(fields, "stream")
    approximations = Approximations()
    body, names = tools_for_any_node(fields, approximations)
    body |= input_for_any_node(fields, approximations)

    make_responder: Callable[[], Responder] = partial(PassedResponse, names)
    if streams:
        make_responder = partial(ResponseStream, model, created_at, opening, names)
    return Translation(
        path=PATH,
        body=encode({**body, "model": model}),
        streams=streams,
        make_responder=make_responder,
        approximations=approximations.words(),
        is_kept=is_kept,
        may_repeat=not (is_kept or has_own_tools(body.get("tools"))),
        prefixes=response_keys(body),
    )


class PassedResponse(Unstreamed):
    """Passes on a node's whole response unchanged, except for the names of tools."""

    def __init__(self, names: ToolNames) -> None:
        super().__init__()
        self._names = names

    def take_body(self, body: bytes) -> bytes:
        """Return the node's answer, usually unchanged; see Responder."""
        response = read_whole(body)
        self.upstream_id = read_id(response)
        self.usage = read_usage(response)
        self.content_chunks = 1
        self.done = True
        return encode(response) if self._names.restore_response(response) else body
