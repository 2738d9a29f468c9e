"""A node with one chat template: what it answers, and what the gateway learns of it."""

import re
from typing import Final

from cortexd.dialects.probing.probe import Probe
from cortexd.dialects.wire.json_values import JsonObject, decode, encode
from cortexd.dialects.wire.profile import MISTRALRS, Profile
from tests.doubles.templates.rendering import TemplateError, render

TOKEN: Final = re.compile(r"\w+|[^\w\s]")


def learned_profile(template: str) -> Profile:
    """Return the profile of the template's model, once the gateway has probed it."""
    probe = Probe("model")
    while (question := probe.question) is not None:
        probe.answer(*_answer(template, question))
    return probe.learned.applied_to(MISTRALRS)


def _answer(template: str, question: bytes) -> tuple[int, bytes]:
    """Return the status and the body of the node's answer."""
    fields: JsonObject = decode(question)
    try:
        prompt = render(template, fields)
    except TemplateError as error:
        return 422, encode({"message": str(error)})
    usage = {"prompt_tokens": len(TOKEN.findall(prompt)), "completion_tokens": 1}
    message = {"role": "assistant", "content": "yes"}
    choice = {"index": 0, "message": message, "finish_reason": "length"}
    return 200, encode({"choices": [choice], "usage": usage})
