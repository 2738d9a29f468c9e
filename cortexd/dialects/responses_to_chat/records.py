"""Records of tools that are no functions, in a response's input, converted to calls and results.

A client sends them back with the conversation, from other servers or earlier models. The model gets
each as a call of a function of the tool's name, so that it reads the conversation whole
(translation.md 10.2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from cortexd.dialects.wire.json_values import JsonObject, encode


class Call(NamedTuple):
    """A call in the input: its id, the tool's name for the node, and its arguments as JSON."""

    id: str
    name: str
    arguments: str


class Result(NamedTuple):
    """The result of a call; ``content`` is a text or parts, as in ``function_call_output``."""

    call_id: str
    content: object


class Record(NamedTuple):
    """What a record shows to the model; a record of a tool that has run has both."""

    call: Call | None
    result: Result | None


def read_record(item: JsonObject) -> Record | None:
    """Return the call or result in a record, ``None`` if its type is not known or it has none."""
    kind = item.get("type")
    read = _READERS.get(kind) if isinstance(kind, str) else None
    return None if read is None else read(item)


def _string(item: JsonObject, *names: str) -> str:
    """Return the first of the fields that is a string with text."""
    found = (item.get(name) for name in names)
    return next((value for value in found if isinstance(value, str) and value), "")


def _json(value: object) -> str:
    return encode(value).decode()


def _caller(name: str, field: str) -> Callable[[JsonObject], Record | None]:
    """Return the reader of a call whose arguments are the object in ``field``."""

    def read(item: JsonObject) -> Record | None:
        call_id, given = _string(item, "call_id", "id"), item.get(field)
        arguments = given if isinstance(given, dict) else {field: given}
        return Record(Call(call_id, name, _json(arguments)), None) if call_id else None

    return read


def _resulting(item: JsonObject) -> Record | None:
    call_id = _string(item, "call_id", "id")
    return Record(None, Result(call_id, _result(item.get("output")))) if call_id else None


def _patched(item: JsonObject) -> Record | None:
    call_id = _string(item, "call_id")
    content = _string(item, "output") or _string(item, "status")
    return Record(None, Result(call_id, content)) if call_id else None


def _result(output: object) -> object:
    """Return a tool's output as text or parts: a screenshot is a part, a shell's streams a text."""
    if isinstance(output, dict):
        return [output]
    if isinstance(output, list) and all(
        isinstance(each, dict) and ("stdout" in each or "stderr" in each) for each in output
    ):
        return "\n".join(_ran(each) for each in output)
    return output


def _ran(command: JsonObject) -> str:
    texts = [_string(command, "stdout"), _string(command, "stderr")]
    outcome = command.get("outcome")
    code = outcome.get("exit_code") if isinstance(outcome, dict) else None
    if code:
        texts.append(f"exit code {code}")
    return "\n".join(text for text in texts if text)


def _mcp(item: JsonObject) -> Record | None:
    call_id, name = _string(item, "id"), _string(item, "name")
    if not call_id or not name:
        return None
    error = item.get("error")
    output: Any = item.get("output") if error is None else f"Error: {_said(error)}"
    return Record(
        Call(call_id, name, _string(item, "arguments") or "{}"),
        Result(call_id, "" if output is None else output),
    )


def _said(error: object) -> str:
    return error if isinstance(error, str) else _json(error)


def _ran_code(item: JsonObject) -> Record | None:
    call_id = _string(item, "id")
    if not call_id:
        return None
    outputs = item.get("outputs")
    logs = [
        _string(output, "logs", "url")
        for output in (outputs if isinstance(outputs, list) else ())
        if isinstance(output, dict)
    ]
    code = _json({"code": item.get("code")})
    return Record(
        Call(call_id, "code_interpreter", code),
        Result(call_id, "\n".join(log for log in logs if log)),
    )


def _searched_files(item: JsonObject) -> Record | None:
    call_id = _string(item, "id")
    if not call_id:
        return None
    results = item.get("results")
    texts = [
        "\n".join(filter(None, (_string(found, "filename"), _string(found, "text"))))
        for found in (results if isinstance(results, list) else ())
        if isinstance(found, dict)
    ]
    return Record(
        Call(call_id, "file_search", _json({"queries": item.get("queries")})),
        Result(call_id, "\n\n".join(texts)),
    )


def _searched_web(item: JsonObject) -> Record | None:
    call_id, action = _string(item, "id"), item.get("action")
    if not call_id or not isinstance(action, dict):
        return None
    asked = {name: value for name, value in action.items() if name != "sources"}
    sources = action.get("sources")
    urls = [
        _string(source, "url")
        for source in (sources if isinstance(sources, list) else ())
        if isinstance(source, dict)
    ]
    status = _string(item, "status") or "completed"
    return Record(
        Call(call_id, "web_search", _json(asked)),
        Result(call_id, "\n".join(filter(None, urls)) or f"[{status}]"),
    )


def _made_image(item: JsonObject) -> Record | None:
    call_id, data = _string(item, "id"), _string(item, "result")
    if not call_id:
        return None
    kind = _string(item, "output_format") or "png"
    made = {"type": "input_image", "image_url": f"data:image/{kind};base64,{data}"}
    return Record(
        Call(call_id, "image_generation", _json({"prompt": item.get("revised_prompt")})),
        Result(call_id, [made] if data else _string(item, "status")),
    )


def _program_output(item: JsonObject) -> Record | None:
    call_id = _string(item, "call_id")
    return Record(None, Result(call_id, item.get("result"))) if call_id else None


_READERS: Final[dict[str, Callable[[JsonObject], Record | None]]] = {
    "local_shell_call": _caller("local_shell", "action"),
    "local_shell_call_output": _resulting,
    "shell_call": _caller("shell", "action"),
    "shell_call_output": _resulting,
    "apply_patch_call": _caller("apply_patch", "operation"),
    "apply_patch_call_output": _patched,
    "computer_call": _caller("computer", "action"),
    "computer_call_output": _resulting,
    "tool_search_call": _caller("tool_search", "arguments"),
    "program": _caller("program", "code"),
    "program_output": _program_output,
    "mcp_call": _mcp,
    "code_interpreter_call": _ran_code,
    "file_search_call": _searched_files,
    "web_search_call": _searched_web,
    "image_generation_call": _made_image,
}
