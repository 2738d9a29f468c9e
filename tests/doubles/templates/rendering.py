"""Renders chat templates as a mistral.rs node does: with minijinja, from a chat request's fields.

The rewriting of templates, the functions and the filter are those of ``apply_chat_template_to`` of
mistral.rs v0.9.2. A request's values are written into the template's source as literals. Values of
Python would have Python's methods: `schema.items` would be a method where a node sees a missing
key, and `messages.append` would work where a node raises.
"""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import minijinja

from cortexd.testing.model import TemplateError
from tests.doubles.templates.inputs import JsonObject, speaks_gemma4, template_inputs

__all__ = ["TemplateError", "render", "renderer"]

NAME = "chat_template"
GENERATION_TAG = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
DESCENDING_RANGE = re.compile(r"range\(([^,]+),\s*-1,\s*-1\)")
RAISE = re.compile(r"\braise_exception\s*\(")
PLACE = re.compile(r"\(in chat_template:[0-9]+\)")


def render(template: str, fields: JsonObject) -> str:
    """Return the prompt that a node makes of a chat request's JSON ``fields``.

    Raises TemplateError with the node's words, which end in ``(in chat_template:N)`` with the line
    if the template raises.
    """
    inputs = template_inputs(template, fields)
    head = "".join(f"{{% set {name} = {_literal(value)} %}}" for name, value in inputs.items())
    try:
        # The newline after the head is trimmed, so that the template begins at a line's start.
        prompt = _ENVIRONMENT.render_str(f"{head}\n{_rewritten(template)}", NAME)
    except minijinja.TemplateError as error:
        line = (error.line or 2) - 1
        raise TemplateError(PLACE.sub(f"(in {NAME}:{line})", error.message)) from None
    if speaks_gemma4(template) and prompt.endswith("<tool_response|>"):
        prompt += "<|turn>model\n"
    return prompt


def renderer(template: str) -> Callable[[JsonObject], str]:
    """Return `SimulatedModel.render` of a model with this chat template."""
    return partial(render, template)


def _rewritten(template: str) -> str:
    """Return a template as a node rewrites it, in which each exception is raised with its line."""
    template = template.replace(
        "namespace(name=tcid if tcid else '')", "namespace(name=(tcid if tcid else ''))"
    )
    template = template.replace("[::-1]", "|reverse")
    template = DESCENDING_RANGE.sub(r"range(\1)|reverse", template)
    if "{{ meta }}" in template:  # GLM 4
        template = template.replace('{%- set meta = message.get("metadata", "") %}', "")
        template = template.replace("{{ meta }}", "")
    lines = GENERATION_TAG.sub("", template).split("\n")
    return "\n".join(
        RAISE.sub(f"raise_exception({number}, ", line) for number, line in enumerate(lines, 1)
    )


def _literal(value: object) -> str:
    """Return the expression of a JSON value in a template's source."""
    if isinstance(value, dict):
        pairs = (f"{_literal(key)}: {_literal(each)}" for key, each in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if value is None:
        return "none"
    return json.dumps(value, ensure_ascii=False)


def _raise_exception(line: int, words: object) -> None:
    raise TemplateError(f"invalid operation: {words} (in {NAME}:{line})")


def _tojson(value: object, indent: int | None = None, **_ignored: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _strftime_now(form: str) -> str:
    return datetime.now(UTC).strftime(form)


def _environment() -> minijinja.Environment:
    environment = minijinja.Environment(pycompat=True, trim_blocks=True, lstrip_blocks=True)
    environment.add_global("raise_exception", _raise_exception)
    environment.add_global("strftime_now", _strftime_now)
    environment.add_filter("tojson", _tojson)
    return environment


_ENVIRONMENT = _environment()
