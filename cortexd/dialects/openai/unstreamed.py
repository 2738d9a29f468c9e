"""A request of the OpenAI dialect that goes upstream nearly unchanged, without a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from cortexd.dialects.wire.exchange import (
    ONLY_MISTRALRS,
    Exchange,
    Responder,
    Translation,
    translate_alike,
)
from cortexd.dialects.wire.json_values import JsonObject, encode
from cortexd.dialects.wire.profile import Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class UnstreamedRequest:
    """Such a request on a ``route``; ``body`` is the upstream body without the model.

    ``responder_for`` makes a responder for an answer of a model in the catalogue. It lives as long
    as the answer, so it must not reference the body. With ``keeps_content_type``, the answer has
    the upstream's content type.
    """

    route: str
    model: str
    body: JsonObject
    responder_for: Callable[[str], Responder]
    keeps_content_type: bool = False

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
        """Return the exchange with the catalogue's ``model``; an answer of this kind has no id."""
        translation = Translation(
            path=self.route,
            body=encode({**self.body, "model": model}),
            streams=False,
            make_responder=partial(self.responder_for, model),
            keeps_content_type=self.keeps_content_type,
        )
        return Exchange(
            route=self.route,
            model=model,
            streams=False,
            translations=translate_alike(profiles, self.route, translation),
        )
