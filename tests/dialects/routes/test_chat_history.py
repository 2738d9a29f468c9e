"""What becomes of the earlier turns of a chat, none of which may end the conversation."""

import json

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.routes.chat import read_request
from cortexd.dialects.wire.json_values import decode
from cortexd.dialects.wire.profile import Profile
from tests.covers import covers
from tests.dialects.bodies import upstream_body
from tests.dialects.routes.test_chat import CALL, HELLO, IMAGE, sent


class HistoryTests(SynchronousTestCase):
    @covers("3 C->C history")
    def test_nothing_in_a_history_is_refused(self) -> None:
        """What would be refused in the newest turn becomes words, or goes, once it is answered."""
        blind = Profile(vision=False, fetches_images=False)
        heard = {"type": "input_audio", "input_audio": {"data": "eA==", "format": "wav"}}
        far = {"type": "video_url", "video_url": {"url": "https://example.org/a.mp4"}}
        cases: list[tuple[object, str | None, set[str]]] = [
            (
                {"role": "user", "content": [heard]},
                "[input_audio omitted]",
                {"content.input_audio"},
            ),
            (
                {"role": "user", "content": [IMAGE]},
                "[image omitted: model has no vision]",
                {"image"},
            ),
            (
                {"role": "user", "content": [far]},
                "[video omitted: videos are not fetched here]",
                {"video"},
            ),
            ({"role": "user", "content": None}, "", set()),
            ({"role": "narrator", "content": "dusk"}, "[narrator:] dusk", {"role"}),
            ({"role": "user", "content": "a", "mood": 1}, "a", {"messages.mood"}),
            (7, None, {"messages"}),
        ]
        for message, expected, noted in cases:
            later = [{"role": "assistant", "content": "so"}, *HELLO]
            body = json.dumps({"model": "m", "messages": [message, *later]}).encode()
            found = read_request(body).exchange("m", [blind], random_id="x", now=0).first
            first, *_ = decode(found.body)["messages"]
            if expected is not None:
                assert {"role": "user", "content": expected} == first
                assert noted == set(found.approximations)
            else:
                assert noted | {"opening_turn"} == set(found.approximations)

    @covers("3 C->C history")
    def test_pictures_beside_results(self) -> None:
        """A tool's pictures follow in the user's next turn, and are never refused."""
        called = {"role": "assistant", "content": "", "tool_calls": [CALL]}
        result = {"role": "tool", "tool_call_id": "1", "content": [IMAGE]}
        *_, told, shown = sent(messages=[*HELLO, called, result])["messages"]
        assert "[image 1 attached below]" == told["content"]
        assert {"role": "user", "content": [IMAGE]} == shown
        *_, told = upstream_body(
            read_request, Profile(vision=False), messages=[*HELLO, called, result]
        )["messages"]
        assert "[image omitted: model has no vision]" == told["content"]
