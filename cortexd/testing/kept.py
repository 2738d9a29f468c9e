"""A node's state besides responses: sessions and files of an engine, approvals of the process.

An engine stores a session for 30 minutes after its last use, at most 128 of them, and a file for 30
minutes, at most 4096 of them. It loses all of them when it is dropped. A tool call waits for its
approval for 5 minutes.
"""

import mimetypes
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

SESSION_SECONDS = 1800.0
MOST_SESSIONS = 128
FILE_SECONDS = 1800.0
MOST_FILES = 4096
APPROVAL_SECONDS = 300.0

Json = dict[str, Any]


class StoredFile(Struct, kw_only=True):
    """A file that an engine stores; `created_at` is in unix seconds."""

    id: str
    name: str
    content: bytes
    created_at: int
    mime_type: str
    purpose: str = "agent_output"
    tool: str = "execute_python"

    @property
    def source(self) -> Json:
        """The tool and the round that made the file."""
        return {"tool": self.tool, "round": 0, "turn": 0}

    def metadata(self) -> Json:
        """Return its description, as on the files routes."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.content),
            "created_at": self.created_at,
            "filename": self.name,
            "purpose": self.purpose,
            "mime_type": self.mime_type,
            "source": self.source,
        }

    def in_container(self, container_id: str) -> Json:
        """Return it as a file of a container; any id works, because nodes have no containers."""
        metadata = self.metadata()
        del metadata["purpose"]
        return metadata | {"object": "container.file", "container_id": container_id}

    def embedded(self) -> Json:
        """Return it in the form inside an answer, with its text."""
        return {
            "id": self.id,
            "name": self.name,
            "mime_type": self.mime_type,
            "bytes": len(self.content),
            "created_at": self.created_at,
            "purpose": self.purpose,
            "source": self.source,
            "text": self.content.decode(errors="replace"),
        }


def uploaded_file(
    name: str, mime_type: str | None, purpose: str, content: bytes, created_at: int
) -> StoredFile:
    """Return a client's file under a new, globally unique id."""
    return StoredFile(
        id=f"file-{uuid.uuid4().hex}",
        name=name,
        content=content,
        created_at=created_at,
        mime_type=mime_type or guessed_type(name),
        purpose=purpose,
        tool="user_upload",
    )


def guessed_type(name: str) -> str:
    """Return the media type for the name of a file."""
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


class EngineMemory:
    """The sessions and files of one engine; `now` is in seconds of the node's clock."""

    def __init__(self) -> None:
        self._sessions: dict[str, tuple[list[Json], float]] = {}
        self._files: dict[str, tuple[StoredFile, float]] = {}

    def session(self, session_id: str, now: float) -> list[Json] | None:
        """Return a session's messages, None for an unknown id; this counts as a use."""
        messages, used_at = self._sessions.get(session_id, (None, 0.0))
        if messages is None or now >= used_at + SESSION_SECONDS:
            return None
        self._sessions[session_id] = (messages, now)
        return messages

    def save_session(self, session_id: str, messages: list[Json], now: float) -> None:
        """Store a session; if there are too many, the least recently used one is lost."""
        self._sessions.pop(session_id, None)
        while len(self._sessions) >= MOST_SESSIONS:
            del self._sessions[min(self._sessions, key=lambda each: self._sessions[each][1])]
        self._sessions[session_id] = (messages, now)

    def delete_session(self, session_id: str) -> None:
        """Delete a session, if it exists."""
        self._sessions.pop(session_id, None)

    def add_file(self, file: StoredFile, now: float) -> None:
        """Store a file; if there are too many, the oldest one is lost."""
        while len(self._files) >= MOST_FILES:
            del self._files[next(iter(self._files))]
        self._files[file.id] = (file, now)

    def files(self, now: float) -> Iterator[StoredFile]:
        """Return the stored files, oldest first."""
        for file, since in self._files.values():
            if now < since + FILE_SECONDS:
                yield file

    def file(self, file_id: str, now: float) -> StoredFile | None:
        """Return a file, None for an unknown id."""
        return next((file for file in self.files(now) if file.id == file_id), None)

    def delete_file(self, file_id: str) -> bool:
        """Delete a file; False if it does not exist."""
        return self._files.pop(file_id, None) is not None


class ApprovalDecision(Struct):
    """The body of POST /v1/agent/approvals/{id}."""

    decision: Literal["approve", "deny"]
    remember_for_session: bool = False
    message: str | None = None


class EngineDroppedError(Exception):
    """Raised when the engine of a tool call that waits for approval was dropped."""


class Approvals:
    """The tool calls that wait for approval."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._waiting: dict[str, tuple[str, Deferred[ApprovalDecision], IDelayedCall]] = {}

    def ask(self, approval_id: str, model: str) -> "Deferred[ApprovalDecision]":
        """Wait for the decision on a model's tool call: after 5 minutes it is a denial.

        Fails with EngineDroppedError if the model is dropped before that.
        """
        late = ApprovalDecision("deny", message="Approval timed out.")
        timer = self._clock.callLater(APPROVAL_SECONDS, self.resolve, approval_id, late)
        asked: Deferred[ApprovalDecision] = Deferred(lambda _: self._forget(approval_id))
        self._waiting[approval_id] = (model, asked, timer)
        return asked

    def resolve(self, approval_id: str, decision: ApprovalDecision) -> bool:
        """Decide on a tool call; False if no call waits under the id."""
        asked = self._take(approval_id)
        if asked is None:
            return False
        asked.callback(decision)
        return True

    def drop(self, models: Sequence[str] | None = None) -> None:
        """End the waiting calls of these models, or of all: their engines were dropped."""
        for approval_id, (model, _, _) in list(self._waiting.items()):
            if models is None or model in models:
                asked = self._take(approval_id)
                if asked is not None:
                    asked.errback(EngineDroppedError())

    def _forget(self, approval_id: str) -> None:
        self._take(approval_id)

    def _take(self, approval_id: str) -> "Deferred[ApprovalDecision] | None":
        if approval_id not in self._waiting:
            return None
        _, asked, timer = self._waiting.pop(approval_id)
        if timer.active():
            timer.cancel()
        return asked


class Memories:
    """The state of all engines of a process; `default` returns its default model, or None."""

    def __init__(self, clock: IReactorTime, default: Callable[[], str | None]) -> None:
        self.approvals = Approvals(clock)
        self._clock = clock
        self._default = default
        self._by_model: dict[str, EngineMemory] = {}

    def of(self, model: str) -> EngineMemory:
        """Return the state of a loaded model's engine."""
        return self._by_model.setdefault(model, EngineMemory())

    def of_default(self) -> EngineMemory | None:
        """Return the state of the default model's engine, None if there is no default model."""
        model = self._default()
        return None if model is None else self.of(model)

    def forget(self, model: str) -> None:
        """Delete the state of an engine, because it was dropped."""
        self._by_model.pop(model, None)
        self.approvals.drop([model])

    def files(self) -> list[StoredFile]:
        """Return the files of all engines."""
        now = self._clock.seconds()
        return [file for memory in self._by_model.values() for file in memory.files(now)]

    def file(self, file_id: str) -> StoredFile | None:
        """Return a file of any engine, None for an unknown id."""
        return next((file for file in self.files() if file.id == file_id), None)

    def delete_file(self, file_id: str) -> bool:
        """Delete a file of any engine; False if it does not exist."""
        # Only one engine has the id, so we can stop at the first.
        return any(memory.delete_file(file_id) for memory in self._by_model.values())
