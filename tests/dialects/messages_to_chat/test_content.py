from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.wire.profile import Profile
from tests.covers import covers
from tests.dialects.anthropic_bodies import (
    HELLO,
    IMAGE,
    IMAGE_PART,
    assistant,
    call,
    noted,
    refused_messages,
    result,
    sent_messages,
    text,
    user,
)

BLIND = Profile(vision=False)
NO_FETCHING = Profile(fetches_images=False)
PDF = {
    "type": "document",
    "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="},
}
FILE_IMAGE = {"type": "image", "source": {"type": "file", "file_id": "file_1"}}
SEARCH = {
    "type": "search_result",
    "title": "Tides",
    "source": "https://example.org/tides",
    "content": [text("High at noon."), text("Low at six.")],
}
SEARCH_TEXT = "Title: Tides\nSource: https://example.org/tides\nHigh at noon.\nLow at six."


def part(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def url_image(url: object) -> dict[str, Any]:
    return {"type": "image", "source": {"type": "url", "url": url}}


def document(source: object, **fields: object) -> dict[str, Any]:
    return {"type": "document", "source": source, **fields}


def plain(data: object, **fields: object) -> dict[str, Any]:
    return document({"type": "text", "media_type": "text/plain", "data": data}, **fields)


def said(*blocks: Any, profile: Profile = Profile()) -> Any:  # noqa: B008 - frozen
    """Return the content of the one message that a user turn of these blocks becomes."""
    (message,) = sent_messages(user(*blocks), profile=profile)
    assert "user" == message["role"]
    return message["content"]


def words_for(*blocks: Any, profile: Profile = Profile()) -> set[str]:  # noqa: B008 - frozen
    return noted(profile, messages=[user(*blocks)])


def with_result(block: dict[str, Any]) -> list[dict[str, Any]]:
    return [*HELLO, assistant(call("toolu_1")), user(block)]


def told(block: dict[str, Any], profile: Profile = Profile()) -> Any:  # noqa: B008 - frozen
    """Return the content of the tool message for a result, which is directly after its call."""
    message = sent_messages(*with_result(block), profile=profile)[2]
    assert ("tool", "toolu_1") == (message["role"], message["tool_call_id"])
    return message["content"]


class TextTests(SynchronousTestCase):
    @covers("2.2 text")
    def test_text_only_turn(self) -> None:
        """Text (user): a string joined by a line end when a turn is text-only."""
        assert "hi" == said(text("hi"))
        assert "one\ntwo" == said(text("one"), text("two"))
        (message,) = sent_messages({"role": "user", "content": "hi"})
        assert {"role": "user", "content": "hi"} == message

    @covers("2.2 text")
    def test_parts_only_with_media(self) -> None:
        """Text (user): a parts array only when media is present; texts in a row are one part."""
        assert [part("one\ntwo"), IMAGE_PART, part("three")] == (
            said(text("one"), text("two"), IMAGE, text("three"))
        )

    def test_empty_text(self) -> None:
        """Empty texts say nothing and leave no empty lines; a turn of nothing is an empty one."""
        assert "one\ntwo" == said(text("one"), text(""), text("two"))
        assert "" == said(text("")) == said()

    @covers("2.2 citations")
    def test_citations_field(self) -> None:
        """Text citations field: dropped."""
        assert "hi" == said(text("hi", citations=[{"type": "char_location"}]))
        for citations in (None, [], [{"type": "char_location"}]):
            assert set() == words_for(text("hi", citations=citations))


class ImageTests(SynchronousTestCase):
    @covers("2.2 image base64")
    def test_base64(self) -> None:
        """Image base64: a data URL."""
        assert [IMAGE_PART] == said(IMAGE)
        assert set() == words_for(IMAGE)

    @covers("2.2 image base64")
    def test_without_vision(self) -> None:
        """Image base64: R on a user turn if the model has no vision."""
        error = refused_messages(user(text("look"), IMAGE), profile=BLIND)

        assert "messages[0].content[1]" == error.param
        assert "no vision" in error.message

    @covers("2.2 image url")
    def test_url(self) -> None:
        """Image url: passed on, where the policy lets nodes fetch it."""
        for url in ("https://example.org/a.png", "HTTP://example.org/a.png", "data:image/png;,"):
            assert [{"type": "image_url", "image_url": {"url": url}}] == said(url_image(url))
        refusal = refused_messages(user(url_image("https://example.org/a")), profile=NO_FETCHING)
        assert "messages[0].content[0].source.url" == refusal.param
        assert said(url_image("data:image/png;,"), profile=NO_FETCHING)
        for wrong in ("file:///etc/passwd", "/etc/passwd", "", None):
            error = refused_messages(user(url_image(wrong)))
            assert "messages[0].content[0].source.url" == error.param

    @covers("2.2 image file id")
    def test_file_id(self) -> None:
        """Image file id: R, by its source, with what is supported."""
        error = refused_messages(*HELLO, user(FILE_IMAGE))

        assert "messages[1].content[0].source" == error.param
        assert "'base64' or 'url'" in error.message

    @covers("2.2 order of text and images")
    def test_order(self) -> None:
        """Order of text/images: kept in our parts; A where the node puts images first."""
        blocks = [text("before"), IMAGE, text("after")]

        assert [part("before"), IMAGE_PART, part("after")] == said(*blocks)
        assert {"image_order"} == words_for(*blocks)
        assert set() == words_for(*blocks, profile=Profile(images_first=False))
        assert set() == words_for(IMAGE, IMAGE, text("after"))

    def test_shapes(self) -> None:
        """A source that cannot be read is refused by its path."""
        cases: list[tuple[object, str]] = [
            (None, ".source"),
            ("a.png", ".source"),
            ({}, ".source.type"),
            ({"type": "base64", "media_type": "image/png"}, ".source.data"),
            ({"type": "base64", "media_type": "image/png", "data": ""}, ".source.data"),
            ({"type": "base64", "data": "AA=="}, ".source.media_type"),
            (
                {"type": "base64", "media_type": "image/png,x;", "data": "AA=="},
                ".source.media_type",
            ),
        ]
        for source, ending in cases:
            error = refused_messages(user({"type": "image", "source": source}))
            assert f"messages[0].content[0]{ending}" == error.param


class DocumentTests(SynchronousTestCase):
    @covers("2.2 document of text")
    def test_plain_text(self) -> None:
        """Document text/plain: inlined text with a title header."""
        assert "Title: Tides\nContext: a table\nHigh at noon." == said(
            plain("High at noon.", title="Tides", context="a table")
        )
        assert "High at noon." == said(plain("High at noon.", title=None))
        assert {"document"} == words_for(plain("High at noon."))

    @covers("2.2 document of content")
    def test_content(self) -> None:
        """Document content[]: flattened text + images."""
        source = {"type": "content", "content": [text("look"), IMAGE]}

        assert [part("Title: T\nlook"), IMAGE_PART] == said(document(source, title="T"))
        assert "look" == said(document({"type": "content", "content": "look"}))
        assert {"document", "image_order"} == words_for(document(source))

    @covers("2.2 document pdf or citations")
    def test_pdf_and_files(self) -> None:
        """Document pdf base64/url/file: R."""
        for source in (
            PDF["source"],
            {"type": "url", "url": "https://example.org/a.pdf"},
            {"type": "file", "file_id": "file_1"},
        ):
            error = refused_messages(user(text("read"), document(source)))
            assert "messages[0].content[1].source" == error.param
            assert "'text' or 'content'" in error.message

    @covers("2.2 document pdf or citations")
    def test_citations_enabled(self) -> None:
        """citations.enabled: R; citations that are off are none."""
        for block in (plain("a"), SEARCH):
            error = refused_messages(user(block | {"citations": {"enabled": True}}))
            assert "messages[0].content[0].citations.enabled" == error.param
            assert said(block) == said(block | {"citations": {"enabled": False}})
            assert said(block) == said(block | {"citations": None})

    @covers("2.2 search_result")
    def test_search_result(self) -> None:
        """search_result: text (title, source, body)."""
        assert SEARCH_TEXT == said(SEARCH)
        assert {"search_result"} == words_for(SEARCH)

    def test_shapes(self) -> None:
        """What cannot be read is refused by its path."""
        cases: list[tuple[dict[str, Any], str]] = [
            (plain(None), ".source.data"),
            (plain("a", title=7), ".title"),
            (document(None), ".source"),
            (document({"type": "content", "content": 7}), ".source.content"),
            (document({"type": "content", "content": [PDF]}), ".source.content[0].type"),
            (document({"type": "content", "content": [FILE_IMAGE]}), ".source.content[0].source"),
            (SEARCH | {"title": None}, ".title"),
            (SEARCH | {"content": "a"}, ".content"),
            (SEARCH | {"content": [{}]}, ".content[0].text"),
            (plain("a", citations=True), ".citations"),
        ]
        for block, ending in cases:
            assert f"messages[0].content[0]{ending}" == refused_messages(user(block)).param


class ToolResultTests(SynchronousTestCase):
    @covers("2.2 tool_result string")
    def test_string(self) -> None:
        """tool_result string: the content of a tool message."""
        assert "sunny" == told(result("toolu_1") | {"content": "sunny"})

    @covers("2.2 tool_result of texts")
    def test_array_of_text(self) -> None:
        """tool_result array of text: joined by a line end."""
        assert "sunny\nwarm" == told(result("toolu_1", text("sunny"), text("warm")))

    @covers("2.2 tool_result empty")
    def test_empty(self) -> None:
        """tool_result absent/empty: content ""."""
        cases: tuple[dict[str, Any], ...]
        cases = ({}, {"content": None}, {"content": ""}, {"content": []})
        for content in cases:
            assert "" == told(result("toolu_1") | content)

    @covers("T21", "2.2 tool_result with images")
    def test_t21_images(self) -> None:
        """T21; tool_result with images: two adjacent string tool messages, then one user message.

        The user message has both images at its head, and what the user says besides.
        """
        turns = [
            *HELLO,
            assistant(call("toolu_1"), call("toolu_2")),
            user(
                result("toolu_1", text("one"), IMAGE),
                result("toolu_2", text("two"), IMAGE),
                text("compare"),
            ),
        ]
        first, second, last = sent_messages(*turns)[2:]

        assert ("tool", "one\n[image 1 attached below]") == (first["role"], first["content"])
        assert ("tool", "two\n[image 2 attached below]") == (second["role"], second["content"])
        assert {"role": "user", "content": [IMAGE_PART, IMAGE_PART, part("compare")]} == last
        assert {"tool_result_image"} == noted(messages=turns)

    @covers("2.2 tool_result with images")
    def test_images_that_cannot_be_shown(self) -> None:
        """tool_result with images: never R, as one PNG read would brick a whole session."""
        for image, profile, reason in (
            (IMAGE, BLIND, "model has no vision"),
            (FILE_IMAGE, Profile(), "images by 'file' are not supported"),
            (url_image("https://example.org/a"), NO_FETCHING, "images are not fetched here"),
            (url_image("file:///a"), Profile(), "not an http or https URL"),
        ):
            turns = with_result(result("toolu_1", text("a"), image))
            assert "tool" == sent_messages(*turns, profile=profile)[-1]["role"]
            assert f"a\n[image omitted: {reason}]" == told(turns[-1]["content"][0], profile)
            assert {"tool_result_image"} == noted(profile, messages=turns)

    @covers("2.2 tool_result of documents")
    def test_other_blocks(self) -> None:
        """tool_result document/search_result/tool_reference: text rendering, never R."""
        for block, expected in (
            (plain("High at noon.", title="Tides"), "Title: Tides\nHigh at noon."),
            (PDF, "[document omitted: documents by 'base64' are not supported]"),
            (plain("a", citations={"enabled": True}), "a"),
            (SEARCH, SEARCH_TEXT),
            (SEARCH | {"citations": {"enabled": True}}, SEARCH_TEXT),
            (SEARCH | {"citations": {"enabled": False}}, SEARCH_TEXT),
            (plain("a", citations="odd"), "a"),
            ({"type": "tool_reference", "tool_name": "weather"}, "[tool: weather]"),
        ):
            turns = with_result(result("toolu_1", block))
            assert told(turns[-1]["content"][0]).startswith(expected)
            citations = {"citations"} if block.get("citations") == {"enabled": True} else set()
            assert {f"tool_result_{block['type']}", *citations} == noted(messages=turns)

    def test_images_of_a_document(self) -> None:
        """A document in a result brings its images along."""
        source = {"type": "content", "content": [text("look"), IMAGE]}
        turns = with_result(result("toolu_1", document(source)))

        assert "look\n[image 1 attached below]" == told(turns[-1]["content"][0])
        assert [IMAGE_PART] == sent_messages(*turns)[-1]["content"]

    @covers("2.2 tool_result of documents")
    def test_images_of_a_document_that_nobody_sees(self) -> None:
        """Of a document in a result only the images are left out that cannot be sent."""
        source = {"type": "content", "content": [text("look"), IMAGE, text("there")]}
        turns = with_result(result("toolu_1", document(source)))

        expected = "look\n[image omitted: model has no vision]\nthere"
        assert expected == told(turns[-1]["content"][0], BLIND)

    @covers("2.2 tool_result of documents", "2.2 tool_result with images")
    def test_what_stands_beside_a_result(self) -> None:
        """What a tool brought and cannot be sent is told of beside its result too, never R.

        Claude Code puts a PDF there that it has read, and has it in every request from then on.
        """
        beside = document({"type": "content", "content": [text("look"), IMAGE]})
        cited = plain("High at noon.", citations={"enabled": True})
        for block, expected, words in (
            (PDF, "[document omitted: documents by 'base64' are not supported]", {"document"}),
            (IMAGE, "[image omitted: model has no vision]", {"image"}),
            (beside, "look\n[image omitted: model has no vision]", {"document"}),
            (cited, "High at noon.", {"document", "citations"}),
        ):
            *asked, answer = with_result(result("toolu_1", text("read")))
            for turns in (
                [*asked, {**answer, "content": [*answer["content"], block]}],
                [*asked, answer, user(block)],
            ):
                *_, found, said_beside = sent_messages(*turns, profile=BLIND)
                assert ("tool", "read") == (found["role"], found["content"])
                assert {"role": "user", "content": expected} == said_beside
                assert words == noted(BLIND, messages=turns)
        later = [*asked, answer, assistant(text("so")), user(PDF)]
        assert "messages[4].content[0].source" == refused_messages(*later).param

    @covers("T23", "2.2 is_error")
    def test_t23_is_error(self) -> None:
        """T23; is_error true: prefixed by "Error: ", once, and also when sent again."""
        for words, expected in (
            ("no such file", "Error: no such file"),
            ("Error: no such file", "Error: no such file"),
            ("Error reading", "Error reading"),
            ("<tool_use_error>no</tool_use_error>", "<tool_use_error>no</tool_use_error>"),
            ("", "Error: "),
        ):
            block = result("toolu_1", is_error=True) | {"content": words}
            assert expected == told(block)
            assert expected == told(block | {"content": expected})
            assert {"is_error"} == noted(messages=with_result(block))
        for nothing in (False, None):
            block = result("toolu_1", text("fine"), is_error=nothing)
            assert "fine" == told(block)
            assert set() == noted(messages=with_result(block))

    def test_shapes(self) -> None:
        """What cannot be read is refused by its path."""
        cases: list[tuple[object, str]] = [
            ({"content": 7}, ".content"),
            ({"content": [7]}, ".content[0]"),
            ({"content": [{"type": "text"}]}, ".content[0].text"),
            ({"content": [{"type": "tool_reference"}]}, ".content[0].tool_name"),
            ({"is_error": "yes"}, ".is_error"),
        ]
        for fields, ending in cases:
            block: Any = result("toolu_1") | fields  # type: ignore[operator]
            assert f"messages[2].content[0]{ending}" == refused_messages(*with_result(block)).param


class BlockTests(SynchronousTestCase):
    @covers("2.2 server blocks")
    def test_the_newest_turn_cannot_have_the_blocks_of_others(self) -> None:
        """A block that no node knows is refused and named, if the user has just sent it."""
        for kind in ("server_tool_use", "mcp_tool_result", "container_upload", "tomorrow"):
            error = refused_messages(*HELLO, assistant(text("ok")), user({"type": kind}))
            assert "messages[2].content[0].type" == error.param
            assert kind in error.message
            assert "supported are text" in error.message
        for block in (call("toolu_1"), {"type": "thinking", "thinking": "hm"}):
            assert "messages[0].content[0].type" == refused_messages(user(block)).param

    @covers("2.2 server blocks")
    def test_a_history_keeps_what_the_blocks_of_others_say(self) -> None:
        """Calls and results of the vendor's tools become words; the model reads them in order."""
        search = {
            "type": "web_search_tool_result",
            "tool_use_id": "srvtoolu_1",
            "content": [
                {
                    "type": "web_search_result",
                    "title": "Trees",
                    "url": "https://trees.test",
                    "encrypted_content": "c2VjcmV0",
                }
            ],
        }
        code = {
            "type": "bash_code_execution_tool_result",
            "content": {"type": "code_execution_result", "stdout": "42", "stderr": ""},
        }
        asked = {"type": "server_tool_use", "id": "x", "name": "web_search", "input": {"q": "tree"}}
        turns = [*HELLO, assistant(text("a"), asked, search, code, text("z")), *HELLO]

        (said,) = (each for each in sent_messages(*turns) if each["role"] == "assistant")
        assert (
            "a\n"
            '[called the tool web_search with {"q":"tree"}]\n'
            "[result of the tool: Trees\nhttps://trees.test]\n"
            "[result of the tool: 42]\n"
            "z"
        ) == said["content"]
        kinds = {each["type"] for each in (asked, search, code)}
        assert kinds <= noted(messages=turns)

    @covers("2.2 server blocks")
    def test_a_history_is_never_refused_for_a_block(self) -> None:
        """What says nothing is left out, in turns of each role and in results of tools."""
        for block in ({"type": "fallback", "to": {}}, {"type": "tomorrow"}, IMAGE):
            kind = block["type"]
            for turn in (assistant(text("a"), block), {"role": "system", "content": [block]}):
                assert kind in noted(messages=[*HELLO, turn, *HELLO])
        inner = result("toolu_1", content=[text("a"), {"type": "tomorrow"}])
        turns = [*HELLO, assistant(call("toolu_1")), user(inner)]
        assert "a" == sent_messages(*turns)[-1]["content"]
        assert "tomorrow" in noted(messages=turns)

    @covers("2.2 compaction")
    def test_a_conversation_begins_with_its_summary(self) -> None:
        """All before the last summary is left out; a compaction that failed changes nothing."""
        summary = {"type": "compaction", "content": "They said hello."}
        failed = {"type": "compaction", "content": None}
        turns = [user(text("old")), assistant(text("older"), summary, text("new")), *HELLO]

        said = [each["content"] for each in sent_messages(*turns)]
        assert ["They said hello.\nnew", "hi"] == said[-2:]
        assert not any("old" in content for content in said)
        kept = sent_messages(user(text("old")), assistant(failed, text("a")), *HELLO)
        assert ["old", "a", "hi"] == [each["content"] for each in kept]

    def test_shapes(self) -> None:
        """What is no content, or no block, is refused by its path."""
        cases: list[tuple[object, str]] = [
            (None, "messages[0].content"),
            (7, "messages[0].content"),
            ({"type": "text"}, "messages[0].content"),
            (["hi"], "messages[0].content[0]"),
            ([{"text": "hi"}], "messages[0].content[0].type"),
            ([{"type": ["text"]}], "messages[0].content[0].type"),
            ([{"type": "text", "text": 7}], "messages[0].content[0].text"),
        ]
        for content, param in cases:
            assert param == refused_messages({"role": "user", "content": content}).param
