"""Helpers for the answers of nodes, in every dialect."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cortexd import sse
from cortexd.dialects.nodes.errors import read_stream_error
from cortexd.dialects.wire.json_values import MAX_COUNT, NOT_JSON, JsonObject, decode
from cortexd.dialects.wire.scan import measure
from cortexd.errors import BadGateway
from cortexd.sse import ServerSentEvent

DONE: Final = b"[DONE]"
"""The data of the event after the last chunk, in the OpenAI dialect."""


MAX_VALUES: Final = 100_000
"""The most values in a report of a node; to decode as many takes up to 10 ms."""

MAX_EVENT_VALUES: Final = 50_000
"""The most values in an event of a node; to decode and to render as many takes up to 25 ms."""

MAX_MODELS: Final = 1000
"""The most models of one node; a fleet may have any number of them."""

MAX_ID: Final = 1000
"""The most characters of a model's id; ids are paths and names of repositories."""

PLAIN_BYTES: Final = 64 * 1024
"""A shorter text has too few values to be counted, and a longer one is counted in such pieces."""

LIGHT_BYTES: Final = 1024 * 1024
LIGHT_VALUES: Final = 50_000
"""The size of whole answers that the reactor itself reads and rewrites. A megabyte of numbers or of
text takes some 6 ms, and 50,000 values take 2 to 15 ms."""

MAX_GATHERED: Final = 2 * 1024 * 1024
"""The most characters of a streamed answer that a client gets whole: those of half a million
tokens."""

MAX_RESPONSE: Final = 768 * 1024
"""The most characters of a response's output: its last events repeat the text four times."""

MAX_CONTAINERS: Final = 2_000_000
"""The most arrays and objects of a whole answer. Several choices of 4,000 tokens, each with 20
probabilities, have as many; embeddings have one for each input."""


class BadAnswer(ValueError):
    """Raised when a node's answer to a request of ours does not have the documented format."""


def is_light(body: bytes) -> bool:
    """Return whether a whole answer can be read and rewritten within 20 ms or so.

    Another process reads one that is not. Characters within strings count as values too.
    """
    if len(body) <= PLAIN_BYTES:
        return True
    return len(body) <= LIGHT_BYTES and not is_dense(body, LIGHT_VALUES)


def check_whole(body: bytes) -> None:
    """Raise BadGateway for a whole answer that would need too much memory to be read."""
    if body.count(b"[") + body.count(b"{") > MAX_CONTAINERS:
        words = f"the node's answer has more than {MAX_CONTAINERS} arrays and objects"
        raise BadGateway(words, elsewhere=True)


def check_gathered(texts: Iterable[str], before: int = 0, most: int = MAX_GATHERED) -> int:
    """Return the characters of an answer with these texts, after ``before`` others.

    Raises BadGateway if they are too many to be joined and rendered at once.
    """
    size = before + sum(map(len, texts))
    if size > most:
        error = BadGateway(
            f"the node's answer has more than {most} characters, which is the limit for "
            "what is given whole"
        )
        error.is_node_fault = False
        raise error
    return size


def is_dense(text: bytes, most: int = MAX_VALUES) -> bool:
    """Return whether a JSON text has more than ``most`` values.

    Only the size of a text is limited elsewhere, and the time to decode a text depends more on the
    number of its values. Characters within strings count too.
    """
    count = 0
    for start in range(0, len(text), PLAIN_BYTES):
        end = start + PLAIN_BYTES
        count += text.count(b",", start, end) + text.count(b"[", start, end)
        count += text.count(b"{", start, end)
        if count > most:
            return True
    return False


def read_count(fields: JsonObject, name: str, within: str = "") -> int | None:
    """Return the number in a field of a node's answer, ``None`` if it is missing or null.

    ``within`` is the path of ``fields`` in the answer. Raises BadAnswer, which names the field, for
    anything but an integer from 0 to MAX_COUNT: no real figure is larger, and our books, our store
    and our metrics could not take one.
    """
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
        path = f"{within}.{name}" if within else name
        raise BadAnswer(f"{path!r} is no number from 0 to 2^53")
    return value


def answer_object(body: bytes) -> JsonObject:
    """Return the JSON object in a node's answer. Raises BadAnswer."""
    if len(body) > PLAIN_BYTES and is_dense(body):
        raise BadAnswer(f"the answer has more than {MAX_VALUES} values")
    try:
        value = decode(body)
    except NOT_JSON:
        raise BadAnswer("the answer is not valid JSON") from None
    if not isinstance(value, dict):
        raise BadAnswer("the answer is not a JSON object")
    return value


def listed_entries(body: bytes) -> list[JsonObject]:
    """Return the entries of a list of models, each with an ``id`` that is a string.

    Raises BadAnswer, also for more than MAX_MODELS entries and for ids beyond MAX_ID characters.
    """
    entries = answer_object(body).get("data")
    if not isinstance(entries, list):
        raise BadAnswer("the model list has no 'data' array")
    if len(entries) > MAX_MODELS:
        raise BadAnswer(f"the model list has more than {MAX_MODELS} models")
    for entry in entries:
        model = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(model, str) or not model:
            raise BadAnswer("the model list has an entry without an id")
        if len(model) > MAX_ID:
            raise BadAnswer(f"the model list has an id of more than {MAX_ID} characters")
    return entries


def read_event(event: ServerSentEvent) -> JsonObject:
    """Return the object in an event of a node's stream. Raises CortexError for an error event."""
    data = event.data
    # A call may contain a whole file, with as many commas in its text: then strings do not count.
    if (
        len(data) > PLAIN_BYTES
        and is_dense(data, MAX_EVENT_VALUES)
        and measure(data, most_values=MAX_EVENT_VALUES).values > MAX_EVENT_VALUES
    ):
        words = f"the node sent an event with more than {MAX_EVENT_VALUES} values"
        raise BadGateway(words, elsewhere=True)
    try:
        fields = decode(data)
    except NOT_JSON:
        # Nodes up to v0.9.2 send errors as a line of plain text (nodes.md 4.3.9).
        raise read_stream_error(data.decode("utf-8", "replace")) from None
    if not isinstance(fields, dict):
        raise BadGateway("the node sent an event that is not an object", elsewhere=True)
    return fields


def as_it_came(event: ServerSentEvent) -> bytes:
    """Return the bytes of an event that is passed on unchanged.

    Raises BadGateway if it is not UTF-8: a client could not decode the rest of the stream either.
    """
    read_name(event)
    _decoded(event.data)
    return sse.encode(event.data, None if event.name == b"message" else event.name)


def read_name(event: ServerSentEvent) -> str:
    """Return the name of an event. Raises BadGateway."""
    return _decoded(event.name)


def _decoded(given: bytes) -> str:
    try:
        return given.decode()
    except UnicodeDecodeError:
        raise BadGateway("the node sent an event that is not UTF-8", elsewhere=True) from None


def read_whole(body: bytes) -> JsonObject:
    """Return a node's whole answer. Raises BadGateway."""
    try:
        answer = decode(body)
    except NOT_JSON:
        raise BadGateway("the node's answer is not valid JSON", elsewhere=True) from None
    if not isinstance(answer, dict):
        raise BadGateway("the node's answer is not a JSON object", elsewhere=True)
    return answer


def read_id(answer: JsonObject) -> str | None:
    """Return the node's id of an answer, if it has one."""
    given = answer.get("id")
    return given if isinstance(given, str) else None


def unknown_shape(field: str) -> BadGateway:
    """Return the error for a field of a node's answer that does not have the expected format."""
    words = f"{field!r} in the node's answer does not have the expected format"
    return BadGateway(words, elsewhere=True)


def broken_off() -> BadGateway:
    """Return the error for a stream that ended before its answer was complete."""
    error = BadGateway("the node broke off before the answer was complete", elsewhere=True)
    error.ends_engine = True  # it was unloaded, or it has died (nodes.md 2.5.2, 4.4.13)
    return error
