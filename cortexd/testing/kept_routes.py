"""The answers of the routes of sessions, files, containers and approvals.

The routes of sessions, and uploads, use only the default model's engine. A file is found in the
engine of any model.
"""

from io import BytesIO

import msgspec
from msgspec import Struct
from twisted.web.server import Request
from werkzeug.datastructures import FileStorage
from werkzeug.formparser import FormDataParser
from werkzeug.http import parse_options_header

from cortexd.testing.answering.replies import body_of, empty_reply, json_reply, sized, text_reply
from cortexd.testing.answering.requests import BodyRefusedError, RequestRefusedError
from cortexd.testing.answering.streams import read_body
from cortexd.testing.kept import ApprovalDecision, EngineMemory, Json, uploaded_file
from cortexd.testing.server import Server

MAX_UPLOAD_BYTES = 64 * 1024 * 1024


class SerializedSession(Struct):
    """The wire format of a session."""

    messages: list[Json]
    images: list[str] = msgspec.field(default_factory=list)
    videos: list[Json] = msgspec.field(default_factory=list)


class KeptRoutes:
    """Answers requests for the state of a node's engines."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def session(self, request: Request, name: str) -> bytes:
        """Export, import or delete a session; a deletion always succeeds."""
        memory, now = self._default(), self._server.clock.seconds()
        if request.method == b"PUT":
            session = body_of(request, SerializedSession)
            memory.save_session(name, session.messages, now)
            return empty_reply(request, 200)
        if request.method == b"DELETE":
            memory.delete_session(name)
            return empty_reply(request, 200)
        messages = memory.session(name, now)
        if messages is None:
            return text_reply(request, 404, f"Session {name} not found")
        return json_reply(request, 200, SerializedSession(messages))

    def upload(self, request: Request) -> bytes:
        """Store a file in the default model's engine."""
        media_type, options = parse_options_header(request.getHeader("content-type"))
        if media_type != "multipart/form-data" or "boundary" not in options:
            raise BodyRefusedError(400, "Invalid `boundary` for `multipart/form-data` request")
        body = read_body(request)
        _, fields, files = FormDataParser().parse(
            BytesIO(body), media_type, len(body), dict(options)
        )
        contents = {name: _content(sent) for name, sent in files.items()}
        if not fields.get("purpose", "").strip():
            words = "File upload requires multipart field `purpose` such as `user_data`."
            return json_reply(request, 400, {"error": words})
        if "file" not in contents:
            words = "File upload requires multipart field `file`."
            return json_reply(request, 400, {"error": words})
        sent, content = files["file"], contents["file"]
        if len(content) > MAX_UPLOAD_BYTES:
            words = f"File upload exceeds the {MAX_UPLOAD_BYTES} byte limit."
            return json_reply(request, 400, {"error": words})
        file = uploaded_file(
            sent.filename or "",
            sent.content_type,
            fields["purpose"],
            content,
            self._server.unix_time(),
        )
        self._default().add_file(file, self._server.clock.seconds())
        return json_reply(request, 200, file.metadata())

    def files(self, request: Request) -> bytes:
        """List the files of all engines."""
        files = [file.metadata() for file in self._server.running_process.memories.files()]
        return json_reply(request, 200, {"object": "list", "data": files})

    def file(self, request: Request, file_id: str) -> bytes:
        """Describe or delete a file."""
        memories = self._server.running_process.memories
        if request.method == b"DELETE":
            if not memories.delete_file(file_id):
                return _no_file(request, file_id)
            return json_reply(request, 200, {"id": file_id, "object": "file", "deleted": True})
        file = memories.file(file_id)
        return json_reply(request, 200, file.metadata()) if file else _no_file(request, file_id)

    def content(self, request: Request, file_id: str) -> bytes:
        """Return the content of a file, with its media type."""
        file = self._server.running_process.memories.file(file_id)
        if file is None:
            return json_reply(request, 404, {"error": "file not found or expired"})
        request.setHeader(b"content-type", file.mime_type.encode())
        disposition = f"inline; filename=\"{file.name}\"; filename*=UTF-8''{file.name}"
        request.setHeader(b"content-disposition", disposition.encode())
        return sized(request, file.content)

    def container_files(self, request: Request, container_id: str) -> bytes:
        """List the files of all engines as those of a container, whatever its id."""
        files = [
            file.in_container(container_id)
            for file in self._server.running_process.memories.files()
        ]
        return json_reply(request, 200, {"object": "list", "data": files})

    def container_file(self, request: Request, container_id: str, file_id: str) -> bytes:
        """Describe a file as one of a container, whatever its id."""
        file = self._server.running_process.memories.file(file_id)
        if file is None:
            return _no_file(request, file_id)
        return json_reply(request, 200, file.in_container(container_id))

    def approve(self, request: Request, approval_id: str) -> bytes:
        """Accept a decision on a tool call that waits for approval."""
        decision = body_of(request, ApprovalDecision)
        approvals = self._server.running_process.memories.approvals
        if not approvals.resolve(approval_id, decision):
            return json_reply(request, 404, {"status": "not_found"})
        return json_reply(request, 200, {"status": "resolved"})

    def _default(self) -> EngineMemory:
        memory = self._server.running_process.memories.of_default()
        if memory is None:
            raise RequestRefusedError(500, "engine state lock is poisoned")
        return memory


def _content(sent: FileStorage) -> bytes:
    with sent.stream as stream:
        content: bytes = stream.read()
    return content


def _no_file(request: Request, file_id: str) -> bytes:
    error = {
        "message": f"File '{file_id}' not found or expired",
        "type": "invalid_request_error",
        "code": "file_not_found",
    }
    return json_reply(request, 404, {"error": error})
