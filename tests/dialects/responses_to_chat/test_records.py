"""Records of tools that are no functions, each as the model reads it."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.responses_to_chat.records import Call, Record, Result, read_record
from tests.covers import covers

PNG = "iVBORw0KGgo="


class RecordTests(SynchronousTestCase):
    @covers("10.2 records of tools")
    def test_tools_that_have_run(self) -> None:
        """A record of a tool that has run is a call and its result."""
        files = [{"filename": "a.txt", "text": "one"}, {"text": "two"}, "odd"]
        logs = [{"type": "logs", "logs": "42"}, {"type": "image", "url": "https://x.test/i"}, 7]
        cases: list[tuple[dict[str, Any], str, str, object]] = [
            ({"type": "mcp_call", "name": "add", "arguments": '{"a":1}', "output": "2"}, "add",
             '{"a":1}', "2"),
            ({"type": "mcp_call", "name": "add", "error": "broken"}, "add", "{}", "Error: broken"),
            ({"type": "mcp_call", "name": "add", "error": {"code": 1}}, "add", "{}",
             'Error: {"code":1}'),
            ({"type": "mcp_call", "name": "add"}, "add", "{}", ""),
            ({"type": "code_interpreter_call", "code": "6*7", "outputs": logs},
             "code_interpreter", '{"code":"6*7"}', "42\nhttps://x.test/i"),
            ({"type": "code_interpreter_call", "code": None, "outputs": None},
             "code_interpreter", '{"code":null}', ""),
            ({"type": "file_search_call", "queries": ["q"], "results": files}, "file_search",
             '{"queries":["q"]}', "a.txt\none\n\ntwo"),
            ({"type": "web_search_call", "action": {"type": "search", "query": "q"}},
             "web_search", '{"type":"search","query":"q"}', "[completed]"),
            ({"type": "image_generation_call", "revised_prompt": "a cat", "status": "failed"},
             "image_generation", '{"prompt":"a cat"}', "failed"),
            ({"type": "image_generation_call", "result": PNG}, "image_generation",
             '{"prompt":null}',
             [{"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"}]),
        ]  # fmt: skip
        for item, name, arguments, content in cases:
            expected = Record(Call("c1", name, arguments), Result("c1", content))
            assert expected == read_record({"id": "c1", **item})

    @covers("10.2 records of tools")
    def test_results_that_stand_alone(self) -> None:
        """A shell's streams are a text, a screenshot is a part, and all else is as it is."""
        ran = [{"stdout": "a", "stderr": "b", "outcome": {"exit_code": 2}}, {"stdout": "c"}]
        shot = {"type": "computer_screenshot", "image_url": "data:image/png;base64,AA=="}
        for item, content in (
            ({"type": "shell_call_output", "output": ran}, "a\nb\nexit code 2\nc"),
            ({"type": "computer_call_output", "output": shot}, [shot]),
            ({"type": "apply_patch_call_output", "status": "completed"}, "completed"),
            ({"type": "apply_patch_call_output", "output": "done"}, "done"),
            ({"type": "program_output", "result": "7"}, "7"),
        ):
            assert Record(None, Result("c1", content)) == read_record({"call_id": "c1", **item})

    @covers("10.2 records of tools")
    def test_records_without_an_id(self) -> None:
        """Nothing can refer to them, so that they show nothing."""
        for kind in (
            "local_shell_call",
            "shell_call_output",
            "apply_patch_call_output",
            "mcp_call",
            "code_interpreter_call",
            "file_search_call",
            "web_search_call",
            "image_generation_call",
            "program_output",
            "tomorrow",
            7,
        ):
            assert read_record({"type": kind}) is None
