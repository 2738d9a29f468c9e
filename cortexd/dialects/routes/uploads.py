"""Requests that make a node store state: uploads of files, imports of sessions.

Neither names a model; each node stores them in the engine of its own default model (nodes.md 6).
They go to a node with the model that is to use them or, if no model is named, to any node that can
store them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from cortexd.dialects.nodes.chat_stream import Unstreamed
from cortexd.dialects.routes.kept import FILES, Question
from cortexd.dialects.wire.exchange import (
    JSON,
    ONLY_MISTRALRS,
    Exchange,
    Translation,
    not_served,
    translate_for_each,
)
from cortexd.dialects.wire.json_values import read_object
from cortexd.dialects.wire.profile import Profile
from cortexd.errors import BadRequest
from cortexd.fleet.affinity import Kept, Reference

FORM = "multipart/form-data"
TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class StateRequest:
    """Such a request, with the client's ``body``.

    ``route`` is our label, and ``path`` the node's. ``keeps`` is the state that the node then
    stores, if it is known in advance. An upload may go to the engine of any model of the node.
    """

    model: str
    route: str
    path: str
    method: Literal["POST", "PUT"]
    body: bytes
    content_type: str
    answer_type: str
    follows: tuple[Reference, ...] = ()
    keeps: tuple[Kept, ...] = ()

    @property
    def streams(self) -> bool:
        """Whether the client gets a stream: never."""
        return False

    def exchange(
        self,
        model: str,
        profiles: Iterable[Profile] = ONLY_MISTRALRS,
        *,
        random_id: str,
        now: float,
        request_id: str | None = None,
    ) -> Exchange:
        """Return the exchange with the catalogue's ``model``; see ParsedRequest."""
        translation = Translation(
            method=self.method,
            path=self.path,
            body=self.body,
            headers=(("Content-Type", self.content_type),),
            streams=False,
            make_responder=partial(PassedOn, self.answer_type),
            may_repeat=False,
        )

        def translate(profile: Profile) -> Translation:
            if not profile.keeps_state:
                raise not_served(self.route, "its node stores no files")
            return translation

        return Exchange(
            route=self.route,
            model=model,
            streams=False,
            is_inference=False,
            follows=self.follows,
            keeps=self.keeps,
            goes_with_model=bool(self.keeps),
            translations=translate_for_each(profiles, translate),
        )


def read_upload(body: bytes, content_type: str, model: str) -> StateRequest:
    """Return the upload in ``body``, a form that the node parses. Raises BadRequest."""
    if content_type.partition(";")[0].strip().lower() != FORM:
        raise BadRequest(f"an upload must be {FORM}; found {content_type or 'no content type'}")
    return StateRequest(
        model=model,
        route=FILES,
        path=FILES,
        method="POST",
        body=body,
        content_type=content_type,
        answer_type=JSON,
    )


def read_import(body: bytes, question: Question, model: str) -> StateRequest:
    """Return the import of ``question``'s session in ``body``. Raises BadRequest."""
    read_object(body)
    return StateRequest(
        model=model,
        route=question.route,
        path=question.path,
        method="PUT",
        body=body,
        content_type=JSON,
        answer_type=TEXT,
        follows=(Reference(question.kept, "id"),),
        keeps=(question.kept,),
    )


class PassedOn(Unstreamed):
    """Passes on a node's whole answer unchanged."""

    def __init__(self, content_type: str) -> None:
        super().__init__()
        self.content_type = content_type

    def take_body(self, body: bytes) -> bytes:
        """Return the node's answer unchanged; see Responder."""
        self.done = True
        return body
