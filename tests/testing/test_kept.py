"""The simulated node's sessions, files, containers and approvals, as a mistral.rs node has them."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from cortexd.testing import SimulatedModel
from cortexd.testing.kept import (
    FILE_SECONDS,
    MOST_FILES,
    MOST_SESSIONS,
    SESSION_SECONDS,
    Approvals,
    EngineMemory,
    uploaded_file,
)
from tests.testing.client import CHAT, Bench, Exchange
from tests.testing.kept_client import MULTIPART, multipart, named_events

FIRST, SECOND = "acme/chat", "acme/other"


class KeptCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.bench = Bench(SimulatedModel(id=FIRST), SimulatedModel(id=SECOND))

    def upload(self, **fields: str) -> Exchange:
        body = multipart(**{"purpose": "user_data", **fields})
        return self.bench.send("POST", "/v1/files", body, MULTIPART)

    def unload(self, model: str) -> None:
        assert "unloaded" == self.bench.operate("unload", model)["status"]


class SessionTests(KeptCase):
    def test_an_answer_names_its_session(self) -> None:
        """Whole at the top, streamed in the last chunk only; one is made where none is named."""
        whole = self.bench.chat("hi", session_id="s").json()
        chunks = self.bench.stream("hi", enable_shell=True).chunks()

        assert "s" == whole["session_id"]
        assert chunks[-1]["session_id"]
        assert not any("session_id" in chunk for chunk in chunks[:-1])
        assert "session_id" not in self.bench.chat("hi").json()

    def test_a_session_has_what_the_client_does_not_send(self) -> None:
        """The tool's words are between the visible turns when these are sent again."""
        first = self.bench.chat("one", session_id="s", enable_code_execution=True).json()
        turns = [
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": first["choices"][0]["message"]["content"]},
            {"role": "user", "content": "two"},
        ]

        def prompt_tokens(session: str) -> int:
            body = {"model": FIRST, "messages": turns, "session_id": session}
            tokens: int = self.bench.post(CHAT, body).json()["usage"]["prompt_tokens"]
            return tokens

        assert prompt_tokens("s") > prompt_tokens("another")

    def test_the_route_sees_the_default_model_alone(self) -> None:
        """What another model's engine has is not found there, and a deletion is never refused."""
        self.bench.chat("hi", session_id="s")
        self.bench.chat("hi", model=SECOND, session_id="t")
        messages = self.bench.get("/v1/sessions/s").json()["messages"]

        assert ["user", "assistant"] == [message["role"] for message in messages]
        assert (404, "Session t not found") == (
            self.bench.get("/v1/sessions/t").status,
            self.bench.get("/v1/sessions/t").text(),
        )
        for name in ("s", "t"):
            assert 200 == self.bench.send("DELETE", f"/v1/sessions/{name}").status
            assert 404 == self.bench.get(f"/v1/sessions/{name}").status

    def test_imported(self) -> None:
        """A session that was exported is there again under the name that it is given."""
        self.bench.chat("hi", session_id="s")
        exported = self.bench.get("/v1/sessions/s").body
        put = self.bench.send(
            "PUT", "/v1/sessions/copy", exported, {"content-type": "application/json"}
        )

        assert (200, b"") == (put.status, put.body)
        assert exported == self.bench.get("/v1/sessions/copy").body
        assert 422 == (
            self.bench.send(
                "PUT", "/v1/sessions/x", b"{}", {"content-type": "application/json"}
            ).status
        )

    def test_lost_with_its_engine(self) -> None:
        """A reload brings the model back and not its sessions."""
        self.bench.chat("hi", session_id="s")
        self.unload(FIRST)
        self.bench.operate("reload", FIRST)
        self.unload(SECOND)

        assert 404 == self.bench.get("/v1/sessions/s").status

    def test_without_a_default_model(self) -> None:
        """The routes fail as the engine's lock does once the last model is gone."""
        self.unload(FIRST)
        self.unload(SECOND)

        assert (500, "engine state lock is poisoned") == (
            self.bench.get("/v1/sessions/s").status,
            self.bench.get("/v1/sessions/s").json()["message"],
        )
        assert 500 == self.upload().status


class FileTests(KeptCase):
    def test_uploaded(self) -> None:
        """A file is described, listed, given back byte for byte, and deleted."""
        described = self.upload().json()
        path = f"/v1/files/{described['id']}"

        assert ("file", 9, "notes.txt", "user_data") == (
            described["object"],
            described["bytes"],
            described["filename"],
            described["purpose"],
        )
        assert described == self.bench.get(path).json()
        assert [described] == self.bench.get("/v1/files").json()["data"]
        content = self.bench.get(f"{path}/content")
        assert (b"the notes", "text/plain") == (content.body, content.headers["content-type"])
        assert self.bench.send("DELETE", path).json()["deleted"]
        for each in (path, f"{path}/content"):
            assert 404 == self.bench.get(each).status
        assert 404 == self.bench.send("DELETE", path).status

    def test_bad_uploads(self) -> None:
        """What is no upload is refused, in one of two ways."""
        sent = [
            self.bench.send("POST", "/v1/files", b"{}", {"content-type": "application/json"}),
            self.bench.send("POST", "/v1/files", multipart(), MULTIPART),
            self.bench.send(
                "POST",
                "/v1/files",
                b'--cut\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nx\r\n--cut--\r\n',
                MULTIPART,
            ),
        ]

        assert [400] * 3 == [exchange.status for exchange in sent]
        assert "purpose" in sent[1].json()["error"]
        assert "`file`" in sent[2].json()["error"]

    def test_as_input(self) -> None:
        """A message that names a file holds its text, at any model of the node; else it fails."""
        name = self.upload().json()["id"]
        for model in (FIRST, SECOND):
            parts = [
                {"type": "text", "text": "read"},
                {"type": "file", "file": {"file_id": name}},
            ]
            body = {"model": model, "messages": [{"role": "user", "content": parts}]}
            said = self.bench.post(CHAT, body).json()["choices"][0]["message"]["content"]
            assert "You said: read [notes.txt: the notes]" == said
        self.bench.send("DELETE", f"/v1/files/{name}")
        gone = self.bench.post(CHAT, body)
        assert (500, f"Input file `{name}` was not found.") == (gone.status, gone.json()["message"])

    def test_any_container(self) -> None:
        """A node has no containers: every file is in each that is named."""
        described = self.upload().json()
        path = "/v1/containers/any/files"
        (listed,) = self.bench.get(path).json()["data"]
        one = self.bench.get(f"{path}/{described['id']}").json()

        assert ("container.file", "any", described["id"]) == (
            one["object"],
            one["container_id"],
            one["id"],
        )
        assert one == listed
        assert b"the notes" == self.bench.get(f"{path}/{described['id']}/content").body
        assert 404 == self.bench.get(f"{path}/none").status

    def test_made_by_an_answer(self) -> None:
        """A file that was asked for is embedded, told of in a stream, and kept."""
        whole = self.bench.chat("hi", files=[{"name": "a.csv"}]).json()
        streamed = self.bench.stream("hi", files=[{"name": "b.csv"}])
        events = dict(named_events(streamed))

        assert ["a.csv"] == [file["name"] for file in whole["files"]]
        assert [whole["files"][0]["id"]] == whole["agentic_tool_calls"][0]["file_ids"]
        assert "b.csv" == events["file_produced"]["name"]
        for file in (whole["files"][0], events["file_produced"]):
            kept = self.bench.get(f"/v1/files/{file['id']}/content")
            assert (file["text"], "text/csv") == (kept.text(), kept.headers["content-type"])


class ApprovalTests(KeptCase):
    def ask(self) -> tuple[Exchange, str]:
        """Begin a stream whose tool waits for an approval."""
        stream = self.bench.stream("hi", agent_permission="ask", files=[{"name": "a.csv"}])
        ((name, told),) = named_events(stream)
        assert "agentic_tool_approval_required" == name
        assert told["session_id"]
        return stream, told["approval_id"]

    def decide(self, approval_id: str, decision: str) -> Exchange:
        return self.bench.post(f"/v1/agent/approvals/{approval_id}", {"decision": decision})

    def test_approved(self) -> None:
        """Nothing comes before the word, then the tool's events and the answer."""
        stream, approval_id = self.ask()
        self.bench.advance(20)
        assert b":\n\n" in stream.body
        assert [] == stream.chunks()[1:]
        decided = self.decide(approval_id, "approve")

        assert (200, {"status": "resolved"}) == (decided.status, decided.json())
        assert [
            "agentic_tool_call_progress",
            "file_produced",
            "agentic_tool_call_progress",
        ] == [name for name, _ in named_events(stream)[1:]]
        assert "clean" == stream.ended
        assert b"You" in stream.body
        assert (404, {"status": "not_found"}) == (
            self.decide(approval_id, "approve").status,
            self.decide(approval_id, "approve").json(),
        )

    def test_denied(self) -> None:
        """The answer comes without the tool; so it does after 5 minutes without a word."""
        stream, approval_id = self.ask()
        self.decide(approval_id, "deny")
        late, _ = self.ask()
        self.bench.advance(301)

        for each in (stream, late):
            assert 1 == len(named_events(each))
            assert b"[DONE]" in each.body
        assert [] == self.bench.clock.getDelayedCalls()

    def test_the_engine_goes_meanwhile(self) -> None:
        """The stream ends as all of that engine do: cleanly, and with nothing."""
        stream, approval_id = self.ask()
        self.unload(FIRST)

        assert ("clean", 404) == (stream.ended, self.decide(approval_id, "approve").status)
        assert b"finish_reason" not in stream.body

    def test_the_client_leaves(self) -> None:
        """Nothing waits any more."""
        stream, approval_id = self.ask()
        self.bench.leave(stream)

        assert 404 == self.decide(approval_id, "approve").status
        assert [] == self.bench.clock.getDelayedCalls()
        assert 0 == self.bench.node.open_streams

    def test_only_in_a_stream(self) -> None:
        """A whole answer cannot ask."""
        refused = self.bench.chat("hi", agent_permission="ask", enable_shell=True)

        assert 422 == refused.status
        assert "stream=true" in refused.json()["message"]

    def test_bad_words(self) -> None:
        """A decision is one of two."""
        _, approval_id = self.ask()
        assert 422 == self.decide(approval_id, "perhaps").status
        assert 200 == self.decide(approval_id, "deny").status

    def test_permissions_of_old(self) -> None:
        """Denied beforehand, no tool runs; allowed, one does without a word."""
        for permission, events in (("deny", 0), ("auto", 2)):
            stream = self.bench.stream(
                "hi", code_execution_permission=permission, enable_code_execution=True
            )
            assert events == len(named_events(stream))


class LimitTests(SynchronousTestCase):
    def test_sessions(self) -> None:
        """A session ends half an hour after its last use, and of too many the least used goes."""
        memory = EngineMemory()
        memory.save_session("s", [], 0.0)
        assert [] == memory.session("s", SESSION_SECONDS - 1)
        assert [] == memory.session("s", 2 * SESSION_SECONDS - 2)
        assert memory.session("s", 3 * SESSION_SECONDS) is None

        memory = EngineMemory()
        for number in range(MOST_SESSIONS + 1):
            memory.save_session(str(number), [], float(number))
        assert [None, []] == [memory.session(name, 200.0) for name in ("0", "1")]

    def test_files(self) -> None:
        """A file ends half an hour after it came, and of too many the oldest goes."""
        memory = EngineMemory()
        files = [uploaded_file("a", None, "x", b"", 0) for _ in range(MOST_FILES + 1)]
        for file in files:
            memory.add_file(file, 0.0)

        assert files[1:] == list(memory.files(FILE_SECONDS - 1))
        assert [] == list(memory.files(FILE_SECONDS))

    def test_a_killed_process(self) -> None:
        """It leaves no timer of an approval behind."""
        clock = Clock()
        approvals = Approvals(clock)
        failed = self.failureResultOf
        asked = approvals.ask("a", "m")
        approvals.drop()

        assert failed(asked)
        assert [] == clock.getDelayedCalls()
