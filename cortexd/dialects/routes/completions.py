"""OpenAI text completions, which editors use.

A node accepts one prompt, a string, and its stream has no token counts (nodes.md 6). So a client
without a stream is served without one, with the node's own counts. A client that streams and
requests usage gets an estimate, marked as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from types import NoneType

from cortexd.dialects.nodes.answers import unknown_shape
from cortexd.dialects.nodes.chat_stream import (
    Identity,
    StreamedAnswer,
    WholeAnswer,
    read_choices,
)
from cortexd.dialects.openai.chat_checks import (
    check_choices,
    check_limit,
    check_several_streamed,
)
from cortexd.dialects.openai.limits import without_no_limits
from cortexd.dialects.openai.token_probabilities import as_text_probabilities
from cortexd.dialects.prefixes.keys import text_keys
from cortexd.dialects.routes.chat import read_include_usage
from cortexd.dialects.wire.exchange import (
    ONLY_MISTRALRS,
    Exchange,
    Responder,
    Translation,
    Usage,
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
from cortexd.dialects.wire.token_ratios import START
from cortexd.errors import BadRequest

ROUTE = "/v1/completions"


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """A completion request; ``body`` is the upstream body without the model."""

    model: str
    streams: bool
    include_usage: bool
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
        """Return the exchange with the catalogue's ``model``; see ParsedRequest."""
        identity = Identity(f"cmpl-{random_id}", int(now), model)
        streams, include_usage = self.streams, self.include_usage
        probabilities = self.body.get("logprobs") is not None
        prompt_bytes = len(self.body["prompt"].encode("utf-8", "replace"))

        make_responder: Callable[[], Responder] = partial(whole_completion, identity)
        if streams:
            make_responder = partial(
                CompletionStream,
                identity,
                include_usage=include_usage,
                prompt_bytes=prompt_bytes,
                probabilities=probabilities,
            )

        translation = Translation(
            path=ROUTE,
            body=encode({**self.body, "model": model}),
            streams=streams,
            make_responder=make_responder,
            prefixes=text_keys(self.body["prompt"]),
        )
        return Exchange(
            route=ROUTE,
            model=model,
            streams=streams,
            translations=translate_alike(profiles, ROUTE, translation),
        )


def read_request(body: bytes) -> CompletionRequest:
    """Return the request in ``body``. Raises BadRequest with the faulty field."""
    fields = without_no_limits(read_object(body))
    model = read_model(fields)
    streams = read_flag(fields, "stream")
    include_usage = read_include_usage(fields)
    upstream = {
        key: value for key, value in fields.items() if value is not None and key != "stream_options"
    }
    check_limit(fields)
    upstream["prompt"] = _prompt(fields.get("prompt"))
    upstream["stream"] = streams
    check_several_streamed(several=check_choices(upstream), streams=streams)
    return CompletionRequest(model, streams, include_usage, upstream)


def _prompt(prompt: object) -> str:
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        return prompt[0]
    raise BadRequest(
        f"'prompt' must be one string, the only form a node takes; found {type_name(prompt)}",
        param="prompt",
    )


def whole_completion(identity: Identity) -> WholeAnswer:
    """Return the responder that passes on a node's whole completion, with our identity."""

    def amend(answer: JsonObject) -> None:
        identity.sign_whole(answer)
        for choice in read_choices(answer):
            as_text_probabilities(choice, 0)

    return WholeAnswer(amend)


def _brings_content(choice: JsonObject) -> bool:
    text = choice.get("text")
    if not isinstance(text, (str, NoneType)):
        raise unknown_shape("text")
    return bool(text)


class CompletionStream(StreamedAnswer):
    """Makes a stream for OpenAI clients from a node's stream of text.

    ``probabilities`` means that the client requested token probabilities; ``prompt_bytes`` is the
    length of its prompt.
    """

    kind = "text_completion"
    text_key = b'"text":"'

    def __init__(
        self,
        identity: Identity,
        *,
        include_usage: bool,
        prompt_bytes: int,
        probabilities: bool = False,
    ) -> None:
        super().__init__(identity, _brings_content, include_usage=include_usage)
        self._prompt_bytes = prompt_bytes
        self._probabilities = probabilities
        self._characters = 0

    def text_of(self, choice: JsonObject) -> str | None:
        """Return the text of a choice without other content."""
        text = choice.get("text")
        if self._probabilities or choice.get("logprobs"):
            return None  # their offsets in the text would be unknown
        return text if isinstance(text, str) else None

    def amend(self, chunk: JsonObject) -> None:
        """Convert token probabilities to the format of completions."""
        if not self._probabilities:
            return
        for choice in chunk["choices"]:
            as_text_probabilities(choice, self._characters)
            self._characters += len(choice.get("text") or "")

    def final_usage(self) -> JsonObject:
        """Return the node's counts, or an estimate, marked as one."""
        if self.usage is None:
            # A chunk has at least one token. Only the bytes of the prompt indicate its tokens.
            prompt_tokens = round(self._prompt_bytes / START)
            self.usage = Usage(prompt_tokens, self.content_chunks, estimated=True)
        return self.node_usage or {
            "prompt_tokens": self.usage.prompt_tokens,
            "completion_tokens": self.usage.completion_tokens,
            "total_tokens": self.usage.prompt_tokens + self.usage.completion_tokens,
            "estimated": True,
        }
