"""OpenAI responses, passed through: the node speaks the dialect itself, and stores its responses.

A response is complete at ``response.completed``, ``response.failed`` or ``response.incomplete``; a
stream that ends without one of them is broken. Failures in a stream become ``response.failed``,
because Codex ignores ``error`` events (translation.md 1.4.5). In ``dialects.openai``,
``responses_stream`` handles streams, ``responses_tools`` tools, and ``responses_input`` the input.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cortexd.dialects.nodes.answers import read_id, read_whole
from cortexd.dialects.nodes.chat_stream import Unstreamed
from cortexd.dialects.openai.chat_checks import check_limit
from cortexd.dialects.openai.responses_input import check_input, input_for_any_node
from cortexd.dialects.openai.responses_stream import Opening, ResponseStream, read_usage
from cortexd.dialects.openai.responses_tools import ToolNames, tools_for_any_node
from cortexd.dialects.routes.kept import named_by_response
from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.exchange import (
    ONLY_MISTRALRS,
    Exchange,
    Responder,
    Translation,
    translate_alike,
)
from cortexd.dialects.wire.json_values import (
    JsonObject,
    encode,
    read_flag,
    read_model,
    read_object,
    type_name,
)
from cortexd.dialects.wire.profile import Profile
from cortexd.errors import BadRequest
from cortexd.fleet.affinity import Reference

ROUTE = "/v1/responses"


@dataclass(frozen=True, slots=True)
class ResponsesRequest:
    """A request for a response; ``body`` is the client's, which goes upstream nearly unchanged.

    ``follows`` is the stored state that it names: the previous response, its session, files.
    ``is_kept`` means that the node stores the response under its id.
    """

    model: str
    streams: bool
    follows: tuple[Reference, ...]
    is_kept: bool
    body: JsonObject

    def exchange(
        self,
        model: str,
        profiles: Iterable[Profile] = ONLY_MISTRALRS,
        *,
        random_id: str,
        now: float,
        request_id: str | None = None,
    ) -> Exchange:
        """Return the exchange with the catalogue's ``model``.

        The answer has the node's own id, by which the client can request it again; these ids are
        random, and do not collide with those of other nodes (nodes.md 6). Only the stream of a
        response that is not stored may have an id of ours.
        """

        def make_responder() -> Responder:
            if streams:
                return ResponseStream(model, int(now), opening, names)
            return WholeResponse(names)

        streams = self.streams
        approximations = Approximations()
        body, names = tools_for_any_node(self.body, approximations)
        body |= input_for_any_node(self.body, approximations)
        opening = Opening(f"resp_{random_id}", may_begin=not self.is_kept)
        translation = Translation(
            path=ROUTE,
            body=encode({**body, "model": model}),
            streams=streams,
            make_responder=make_responder,
            approximations=approximations.words(),
        )
        return Exchange(
            route=ROUTE,
            model=model,
            streams=streams,
            follows=self.follows,
            is_kept=self.is_kept,
            translations=translate_alike(
                profiles,
                ROUTE,
                translation,
                check=lambda profile: check_input(self.body.get("input"), profile),
            ),
        )


def read_request(body: bytes) -> ResponsesRequest:
    """Return the request in ``body``. Raises BadRequest with the faulty field."""
    fields = read_object(body)
    model = read_model(fields)
    before = fields.get("previous_response_id")
    if not (before is None or (isinstance(before, str) and before)):
        raise BadRequest(
            "'previous_response_id' must be the id of a response; found "
            + ("an empty string" if before == "" else type_name(before)),
            param="previous_response_id",
        )
    is_kept = fields.get("store") is None or read_flag(fields, "store")
    # A background task is accessible only by its id, and is never streamed.
    in_background = read_flag(fields, "background")
    streams = read_flag(fields, "stream")
    if in_background and streams:
        raise BadRequest(
            "'stream' must be false where 'background' is true: no node streams those",
            param="stream",
        )
    check_limit(fields)
    if fields.get("max_tool_calls") is not None:  # a node would answer with an internal error
        raise BadRequest(
            "'max_tool_calls' is not supported: nodes have no such limit; leave it out",
            param="max_tool_calls",
            code="unsupported_parameter",
        )
    follows = named_by_response(fields)
    return ResponsesRequest(model, streams, follows, is_kept or in_background, fields)


class WholeResponse(Unstreamed):
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
