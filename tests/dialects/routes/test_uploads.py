"""Requests that give a node something to keep."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.routes.kept import question_about
from cortexd.dialects.routes.uploads import read_import, read_upload
from cortexd.dialects.wire.profile import Profile
from cortexd.errors import BadGateway, BadRequest
from cortexd.fleet.affinity import Kept, Reference, StateKind
from cortexd.sse import ServerSentEvent

FORM = "multipart/form-data; boundary=cut"
OF_SESSION = question_about({"session": "s/1"})


class StateRequestTests(SynchronousTestCase):
    def test_an_upload(self) -> None:
        """It goes up byte by byte under its own content type, and its answer comes back so."""
        request = read_upload(b"--cut--", FORM, "m")
        exchange = request.exchange("org/m", random_id="x", now=0)
        upstream = exchange.first
        responder = upstream.make_responder()

        assert ("m", "org/m", False) == (request.model, exchange.model, exchange.streams)
        assert ("POST", "/v1/files", b"--cut--", (("Content-Type", FORM),), False) == (
            upstream.method,
            upstream.path,
            upstream.body,
            upstream.headers,
            upstream.streams,
        )
        assert b'{"id":"f"}' == responder.take_body(b'{"id":"f"}')
        assert ("application/json", True) == (responder.content_type, responder.done)

    def test_an_import(self) -> None:
        """It goes to the node that has the session, which has it afterwards in any case."""
        exchange = read_import(b'{"messages":[]}', OF_SESSION, "m").exchange(
            "m", random_id="x", now=0
        )
        kept = Kept(StateKind.SESSION, "s/1")

        assert ("PUT", "/v1/sessions/s%2F1") == (exchange.first.method, exchange.first.path)
        assert (((Reference(kept, "id")),), (kept,)) == (exchange.follows, exchange.keeps)
        responder = exchange.first.make_responder()
        assert b"" == responder.take_body(b"")
        assert responder.content_type.startswith("text/plain")

    def test_refused(self) -> None:
        """What is no form is no upload, and what is no object no session."""
        for content_type in ("", "application/json", "text/plain; multipart/form-data"):
            with self.assertRaises(BadRequest):
                read_upload(b"", content_type, "m")
        for body in (b"", b"[]", b"{"):
            with self.assertRaises(BadRequest):
                read_import(body, OF_SESSION, "m")

    def test_a_node_that_keeps_nothing(self) -> None:
        """It has no such routes, whatever it speaks."""
        profile = Profile(keeps_state=False)
        with self.assertRaises(BadRequest) as caught:
            read_upload(b"", FORM, "m").exchange("m", [profile], random_id="x", now=0)
        assert ("model", "unsupported_value") == (caught.exception.param, caught.exception.code)
        assert caught.exception.message.endswith("its node stores no files")

    def test_another_profile_of_a_known_kind(self) -> None:
        """What becomes known of a model meanwhile changes nothing of what its node keeps."""
        kinds = [Profile(), Profile(keeps_state=False)]
        exchange = read_upload(b"", FORM, "m").exchange("m", kinds, random_id="x", now=0)

        assert exchange.first is exchange.translations.onto(Profile(vision=False))
        blind = Profile(vision=False, keeps_state=False)
        assert exchange.translations.onto(blind) is None

    def test_never_streamed(self) -> None:
        """A node that streams though not asked to is at fault."""
        exchange = read_upload(b"", FORM, "m").exchange("m", random_id="x", now=0)
        responder = exchange.first.make_responder()
        with self.assertRaises(BadGateway):
            responder.feed(ServerSentEvent(b"{}"))
        with self.assertRaises(BadGateway):
            responder.finish()
