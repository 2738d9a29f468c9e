from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.wire.profile import Profile
from tests.covers import covers
from tests.dialects.chat_on_messages_bodies import (
    HELLO,
    IMAGE_BLOCK,
    IMAGE_PART,
    PNG_URL,
    calling,
    found,
    noted_of,
    refused_turns,
    say,
    sent_turns,
    text,
    tool_result,
    turn,
)
from tests.dialects.chat_on_messages_bodies import call as make_call

NO_VISION = Profile(vision=False)
NO_FETCHING = Profile(fetches_images=False)


def image(url: str, **fields: object) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **fields}}


def blocks(*parts: Any, profile: Profile = Profile()) -> Any:  # noqa: B008 - frozen
    """Return the blocks that parts of a user's message become."""
    (found_turn,) = sent_turns(say("user", list(parts)), profile=profile)
    return found_turn["content"]


def result_blocks(*parts: Any, profile: Profile = Profile()) -> Any:  # noqa: B008 - frozen
    """Return the content of the result that parts of a tool message become."""
    turns = sent_turns(*HELLO, calling(make_call("a")), found("a", list(parts)), profile=profile)
    return turns[-1]["content"][0].get("content")


class UserContentTests(SynchronousTestCase):
    @covers("3 user content")
    def test_text(self) -> None:
        """User string/parts: text blocks, and an empty text is never sent."""
        assert [turn("user", text("hi"))] == sent_turns(say("user", "hi"))
        assert [text("a"), text("b")] == blocks(text("a"), text(""), text("b"), text(" \n"))
        assert [] == noted_of(say("user", [text("a"), text("")]))

    @covers("3 user content")
    def test_data_url(self) -> None:
        """A data URL is a base64 source with the media type of the URL; detail is dropped."""
        assert [text("a"), IMAGE_BLOCK, text("b")] == blocks(text("a"), IMAGE_PART, text("b"))
        assert [IMAGE_BLOCK] == blocks(image(PNG_URL, detail="high"))
        assert [] == noted_of(say("user", [image(PNG_URL, detail="high")]))
        webp = {"type": "base64", "media_type": "image/webp", "data": "QUJD"}
        for url in ("data:image/webp;base64,QUJD", "DATA:image/webp;charset=utf-8;Base64,QUJD"):
            assert [{"type": "image", "source": webp}] == blocks(image(url))
        (jpeg,) = blocks(image("data:image/jpg;base64,QUJD"))
        assert "image/jpeg" == jpeg["source"]["media_type"]

    @covers("3 user content")
    def test_http_url(self) -> None:
        """An http URL is a url source, and refused where upstream images are not fetched."""
        for url in ("https://example.org/a.png", "HTTP://example.org/a.png"):
            assert [{"type": "image", "source": {"type": "url", "url": url}}] == blocks(image(url))
            error = refused_turns(say("user", [image(url)]), profile=NO_FETCHING)
            assert "messages[0].content[0].image_url.url" == error.param
        assert [IMAGE_BLOCK] == blocks(IMAGE_PART, profile=NO_FETCHING)

    def test_no_vision(self) -> None:
        """An image is refused on a user turn where the model has no vision."""
        error = refused_turns(say("user", [text("a"), IMAGE_PART]), profile=NO_VISION)

        assert "messages[0].content[1]" == error.param
        assert "model has no vision" in error.message

    def test_odd_urls(self) -> None:
        """What is no image, not in base64 or of another scheme is refused by its path."""
        for url in (
            "",
            "data:",
            "data:,",
            "data:image/png",
            "data:image/png,abc",
            "data:image/png;base64",
            "data:image/png;base64,",
            "data:image/png;base32,IFBEG",
            "data:;base64,QUJD",
            "data:text/plain;base64,QUJD",
            "file:///etc/passwd",
            "iVBORw0KGgo=",
        ):
            error = refused_turns(say("user", [image(url)]))
            assert "messages[0].content[0].image_url.url" == error.param, url

    @covers("3 input_audio, file")
    def test_audio_and_files(self) -> None:
        """input_audio, file: R in the newest turn; audio that the model has said goes."""
        audio = {"type": "input_audio", "input_audio": {"data": "QUJD", "format": "wav"}}
        pdf = {"type": "file", "file": {"file_data": "data:application/pdf;base64,QUJD"}}
        for kind, part in (("input_audio", audio), ("file", pdf)):
            error = refused_turns(say("user", [text("a"), part]))
            assert "messages[0].content[1].type" == error.param
            assert kind in error.message
        spoken = say("assistant", "a", audio={"id": "audio_1"})
        assert ["messages.audio"] == noted_of(*HELLO, spoken, *HELLO)

    def test_mistakes(self) -> None:
        """What cannot be read is refused by its path."""
        cases: list[tuple[object, str]] = [
            (None, "messages[0].content"),
            (1, "messages[0].content"),
            (["a"], "messages[0].content[0]"),
            ([{}], "messages[0].content[0].type"),
            ([{"type": "text"}], "messages[0].content[0].text"),
            ([{"type": "image_url"}], "messages[0].content[0].image_url"),
            ([{"type": "image_url", "image_url": {}}], "messages[0].content[0].image_url.url"),
            ([{"type": "refusal", "refusal": "no"}], "messages[0].content[0].type"),
        ]
        for content, path in cases:
            assert path == refused_turns(say("user", content)).param, content

    def test_unknown_fields(self) -> None:
        """An unknown field of a part is ignored and named, and those of caches are harmless."""
        part = text("a") | {"weight": 2, "cache_control": {"type": "ephemeral"}}

        assert [text("a")] == blocks(part)
        assert ["text.weight"] == noted_of(say("user", [part]))
        assert ["image_url.size"] == noted_of(say("user", [image(PNG_URL, size=1)]))


class AssistantContentTests(SynchronousTestCase):
    @covers("3 refusal part")
    def test_refusal(self) -> None:
        """Assistant refusal part: text, as is a refusal beside the content."""
        part = {"type": "refusal", "refusal": "I won't."}
        for answer in (say("assistant", [part]), say("assistant", None, refusal="I won't.")):
            turns = sent_turns(*HELLO, answer, *HELLO)
            assert turn("assistant", text("I won't.")) == turns[1]
            assert ["refusal"] == noted_of(*HELLO, answer, *HELLO)

    def test_parts(self) -> None:
        """Text parts of an answer are its blocks; an image in one is told of."""
        turns = sent_turns(*HELLO, say("assistant", [text("a"), text(""), text("b")]), *HELLO)

        assert turn("assistant", text("a"), text("b")) == turns[1]
        words = "[image omitted: a message of the assistant has only text]"
        turns = sent_turns(*HELLO, say("assistant", [IMAGE_PART]), *HELLO)
        assert turn("assistant", text(words)) == turns[1]


class ToolContentTests(SynchronousTestCase):
    @covers("3 tool message parts")
    def test_parts(self) -> None:
        """Tool message array content: text blocks, and image blocks."""
        assert [text("a"), IMAGE_BLOCK] == result_blocks(text("a"), text(""), IMAGE_PART)
        assert [] == noted_of(*HELLO, calling(make_call("a")), found("a", [IMAGE_PART]))

    def test_string(self) -> None:
        """A string is the content as it is, and where there is none the result has none."""
        for content in (None, "", [], [text("")]):
            turns = sent_turns(*HELLO, calling(make_call("a")), found("a", content))
            assert turn("user", {"type": "tool_result", "tool_use_id": "a"}) == turns[-1]
        turns = sent_turns(*HELLO, calling(make_call("a")), found("a", " a\n"))
        assert turn("user", tool_result("a", " a\n")) == turns[-1]

    def test_unshowable_images(self) -> None:
        """An image in a result that cannot be sent is told of, and never refused."""
        cases = [
            (NO_VISION, IMAGE_PART, "model has no vision"),
            (NO_FETCHING, image("https://example.org/a.png"), "images are not fetched here"),
            (Profile(), image("file:///a.png"), "not a data, http or https URL"),
        ]
        for profile, part, reason in cases:
            words = f"[image omitted: {reason}]"
            assert [text("a"), text(words)] == result_blocks(text("a"), part, profile=profile)
            messages = [*HELLO, calling(make_call("a")), found("a", [part])]
            assert "tool_result_image" in noted_of(*messages, profile=profile)
