"""Chats in which the node works by itself: sessions, tools that it runs, files that they make.

A request that allows code or a shell, or requests files, runs one tool before the answer. With an
`agent_permission` of `ask`, the tool waits for an approval. Each requested file is made, with its
name as its text. The session stores the tool's output: when a client sends the visible turns again,
the node inserts that output after them, so that the prompt is longer than the request.
"""

import uuid
from collections.abc import Sequence
from typing import Any

import msgspec

from cortexd.testing.answering.answers import Answer, Token
from cortexd.testing.answering.requests import ChatRequest, Message, RequestRefusedError
from cortexd.testing.answering.streams import EventStream
from cortexd.testing.answering.wire import ChatShape, Heading, Json, Timings
from cortexd.testing.kept import ApprovalDecision, StoredFile, guessed_type
from cortexd.testing.process import Process

ASK_NEEDS_A_STREAM = (
    'agent_permission "ask" requires stream=true over HTTP; approve or deny emitted requests with '
    "POST /v1/agent/approvals/{approval_id}."
)
TOOL = "execute_python"
TOOL_RESULT = "stdout: the tool ran"


def with_input_files(body: ChatRequest, process: Process) -> ChatRequest:
    """Return a chat in which each file named by id is replaced by a text part with its text.

    Raises RequestRefusedError for an id that no engine of the process has.
    """
    if isinstance(body.messages, str):
        return body
    messages = []
    for message in body.messages:
        content = message.content
        if isinstance(content, list):
            content = [_file_read(part, process) for part in content]
        messages.append(msgspec.structs.replace(message, content=content))
    return msgspec.structs.replace(body, messages=messages)


def _file_read(part: dict[str, Any], process: Process) -> dict[str, Any]:
    named = part.get("file")
    if part.get("type") != "file" or not isinstance(named, dict) or "file_id" not in named:
        return part
    file = process.memories.file(str(named["file_id"]))
    if file is None:
        raise RequestRefusedError(500, f"Input file `{named['file_id']}` was not found.")
    return {"type": "text", "text": f"[{file.name}: {file.content.decode(errors='replace')}]"}


class AgentRun:
    """One chat in which the node works by itself, by `model`, at `unix_time`."""

    def __init__(self, body: ChatRequest, process: Process, now: float, unix_time: int) -> None:
        permission = body.agent_permission or body.code_execution_permission or "auto"
        if permission == "ask" and not body.stream:
            raise RequestRefusedError(422, ASK_NEEDS_A_STREAM)
        self.session_id = body.session_id or str(uuid.uuid4())
        self.files: list[StoredFile] = []
        self._process = process
        self._now = now
        self._unix_time = unix_time
        self._body = body
        self._asks = permission == "ask"
        self._has_run = self._may_run = permission != "deny" and self._has_tool
        self._model = process.models.resolve(body.model)
        # An engine that is being loaded now has no sessions.
        session = process.memories.of(self._model).session(self.session_id, now) or []
        self.request = msgspec.structs.replace(body, messages=_spliced(session, body.turns()))

    @property
    def _has_tool(self) -> bool:
        body = self._body
        return body.enable_code_execution or body.enable_shell or bool(body.files)

    async def work(self, stream: EventStream) -> None:
        """Run the tool, if the request has one, and send its events into the stream.

        Raises EngineDroppedError if the model is unloaded while the tool waits for approval.
        """
        if not self._has_tool:
            return
        arguments = {"code": "print('hello')"}
        if self._asks:
            decision = await self._approved(stream, arguments)
            self._may_run = self._has_run = decision.decision == "approve"
        if not self._may_run:
            return
        self._progress(stream, "calling", {"code": arguments["code"]})
        self.make_files()
        for file in self.files:
            stream.tell("file_produced", file.embedded())
        self._progress(stream, "complete", {"stdout": "the tool ran"})

    async def _approved(self, stream: EventStream, arguments: Json) -> ApprovalDecision:
        approval_id = f"appr_{uuid.uuid4().hex}"
        asked = self._process.memories.approvals.ask(approval_id, self._model)
        stream.tell(
            "agentic_tool_approval_required",
            {
                "type": "agentic_tool_approval_required",
                "approval_id": approval_id,
                "session_id": self.session_id,
                "round": 0,
                "tool": {"source": "built_in", "kind": "code_execution", "label": "Python code"},
                "arguments": arguments,
            },
        )
        return await asked

    def _progress(self, stream: EventStream, phase: str, data: Json) -> None:
        stream.tell(
            "agentic_tool_call_progress",
            {
                "type": "agentic_tool_call_progress",
                "round": 0,
                "tool_name": TOOL,
                "phase": phase,
                "data": {"tool_type": "code_execution", **data},
            },
        )

    def make_files(self) -> None:
        """Make and store the requested files, if the tool may run."""
        if not self._may_run or self.files:
            return
        run = uuid.uuid4().hex
        for number, wanted in enumerate(self._body.files or ()):
            file = StoredFile(
                id=f"file_{run}_r0_{number}",
                name=wanted.name,
                content=wanted.name.encode(),
                created_at=self._unix_time,
                mime_type=guessed_type(wanted.name),
                tool=TOOL,
            )
            self._process.memories.of(self._model).add_file(file, self._now)
            self.files.append(file)

    def records(self) -> list[Json]:
        """Return the tools' records for an answer that is not streamed."""
        if not self._has_run:
            return []
        record: Json = {
            "round": 0,
            "name": TOOL,
            "arguments": '{"code":"print(\'hello\')"}',
            "result_content": TOOL_RESULT,
        }
        if self.files:
            record["file_ids"] = [file.id for file in self.files]
        return [record]

    def save(self, answer: Answer, now: float) -> None:
        """Store the session with the last answer and the tool's output."""
        turns = list(self.request.turns())
        if self._has_run:
            turns.append(Message(role="tool", content=TOOL_RESULT, tool_call_id="call-0"))
        turns.append(Message(role="assistant", content=answer.content))
        messages = [msgspec.to_builtins(turn) for turn in turns]
        self._process.memories.of(self._model).save_session(self.session_id, messages, now)


def _spliced(session: Sequence[Json], turns: Sequence[Message]) -> list[Message]:
    """Return the turns, with the session's hidden turns inserted as long as both agree."""
    spliced: list[Message] = []
    rest = list(turns)
    for stored in session:
        if stored["role"] == "tool":
            spliced.append(msgspec.convert(stored, Message))
        elif rest and (stored["role"], stored["content"]) == (rest[0].role, rest[0].content):
            spliced.append(rest.pop(0))
        else:
            break
    return [*spliced, *rest]


class AgentShape(ChatShape):
    """Chat completions of such a run: they name the session, and whole ones also the files."""

    def __init__(
        self,
        heading: Heading,
        call_ids: Sequence[str],
        top_logprobs: int | None,
        run: AgentRun,
        now: float,
    ) -> None:
        super().__init__(heading, call_ids, top_logprobs)
        self._run = run
        self._now = now

    def whole(self, answers: Sequence[Answer], timings: Timings) -> Json:
        """Return the answer to a request that does not stream."""
        run = self._run
        run.make_files()
        run.save(answers[0], self._now)
        answer = {**super().whole(answers, timings), "session_id": run.session_id}
        if run.records():
            answer["agentic_tool_calls"] = run.records()
        if run.files:
            answer["files"] = [file.embedded() for file in run.files]
        return answer

    def last_chunk(self, index: int, answer: Answer, token: Token | None, timings: Timings) -> Any:
        """Return the last chunk of a choice, the only chunk that names the session."""
        self._run.save(answer, self._now)
        last: Json = super().last_chunk(index, answer, token, timings)
        return {**last, "session_id": self._run.session_id}
