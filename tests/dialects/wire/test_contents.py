"""Contents of messages, read part by part; what each dialect has in them is tested with it."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.contents import reminder, typed_parts, unseen
from cortexd.dialects.wire.json_values import JsonObject
from cortexd.errors import BadRequest

KNOWN = {"text": frozenset({"type", "text"}), "image": frozenset({"type", "source"})}


def read(content: object, noted: Approximations) -> list[tuple[str, JsonObject, str]]:
    return typed_parts(
        content,
        "content",
        noun="part",
        place="a question",
        taken=("text",),
        known=KNOWN,
        approximations=noted,
    )


class TypedPartsTests(SynchronousTestCase):
    def test_parts(self) -> None:
        """Each part comes with its type and its path; a field that nobody knows is noted."""
        noted = Approximations()
        part = {"type": "text", "text": "hi", "colour": "red"}

        assert [("text", part, "content[0]")] == read([part], noted)
        assert ("text.colour",) == noted.words()

    def test_text(self) -> None:
        """A string is one part, at the path of the whole."""
        assert [("text", {"type": "text", "text": "hi"}, "content")] == read("hi", Approximations())

    def test_refused(self) -> None:
        """What is no part, or of a type that this place does not take, is refused by its path."""
        for content, path, words in (
            (None, "content", "an array of content parts"),
            ([7], "content[0]", "an object"),
            ([{"type": None}], "content[0].type", "a string"),
            ([{"type": "image"}], "content[0].type", "not supported in a question"),
        ):
            with self.assertRaises(BadRequest) as caught:
                read(content, Approximations())
            assert path == caught.exception.param
            assert words in caught.exception.message


class WordsTests(SynchronousTestCase):
    def test_unseen(self) -> None:
        """An image before a blind model is refused by its path; a tool's result only says so."""
        error = unseen("content[1]")

        assert (400, "content[1]", "unsupported_value") == (error.status, error.param, error.code)
        assert "content[1] cannot be sent: model has no vision" in error.message
        assert "[image omitted: model has no vision]" == error.omission("image")

    def test_reminder(self) -> None:
        """What the system says to the user's turn stands between tags of its own."""
        assert "<system-reminder>\nbe brief\n</system-reminder>" == reminder("be brief")
