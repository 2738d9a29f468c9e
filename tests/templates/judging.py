"""One cell of the matrix: a conversation in a dialect, for a template, by a profile."""

import re
from dataclasses import dataclass
from typing import Final

from cortexd.dialects.routes import chat, messages, responses
from cortexd.dialects.wire.exchange import ParsedRequest
from cortexd.dialects.wire.json_values import decode, encode
from cortexd.dialects.wire.profile import Profile
from cortexd.errors import CortexError
from cortexd.testing.answering.requests import BodyRefusedError, ChatRequest
from cortexd.testing.answering.requests import decode as decode_request
from tests.doubles.templates.rendering import TemplateError, render
from tests.templates.bodies import MODEL, body_of
from tests.templates.conversation import Dialect, Shape

CODE_OF_PARTS: Final = re.compile(r"""\[\{["']type["']: ["'](text|image|audio|video)["']""")


@dataclass(frozen=True)
class Cell:
    """The judgement about a cell; `reason` is empty if the cell is good."""

    template: str
    shape: str
    dialect: Dialect
    reason: str


def judge(shape: Shape, dialect: Dialect, template: str, profile: Profile) -> str:
    """Return the reason why a cell is bad, an empty one if it is good.

    It is good if nothing raises, and if each word that was said stands in the prompt, in the order
    in which it was said.
    """
    try:
        exchange = _read(dialect, encode(body_of(shape, dialect))).exchange(
            MODEL, [profile], random_id="r", now=0.0
        )
    except CortexError as error:
        return f"refused: {error}"
    body = exchange.first.body
    try:
        decode_request(body, "application/json", ChatRequest)
        prompt = render(template, decode(body))
    except (BodyRefusedError, TemplateError) as error:
        return f"raised: {error}"
    if CODE_OF_PARTS.search(prompt):
        return "printed: the code of a list of parts"
    missing = [_first_missing(prompt, order) for order in shape.orders()]
    if "" in missing:
        return ""
    return f"{'misplaced' if missing[0] in prompt else 'lost'}: {missing[0]}"


def _read(dialect: Dialect, body: bytes) -> ParsedRequest:
    if dialect == "chat":
        return chat.read_request(body)
    if dialect == "messages":
        return messages.read_request(body)
    return responses.read_request(body)


def _first_missing(prompt: str, words: list[str]) -> str:
    """Return the first word that does not stand after those before it; an empty one if all do."""
    place = 0
    for word in words:
        place = prompt.find(word, place)
        if place < 0:
            return word
        place += len(word)
    return ""
