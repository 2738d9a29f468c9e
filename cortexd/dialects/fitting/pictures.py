"""Media that the model cannot get, and those of tool results.

A refusal would end a conversation of which the medium is a part from then on. So words replace a
medium of an earlier turn or of a tool's result, and only the newest turn of the user is refused.
"""

from __future__ import annotations

from cortexd.dialects.fitting import words
from cortexd.dialects.fitting.contents import MEDIA, Content, address_of, of_pieces
from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.contents import Unshowable, unseen
from cortexd.dialects.wire.json_values import JsonObject
from cortexd.dialects.wire.profile import Profile


def check_showable(part: JsonObject, path: str, profile: Profile) -> None:
    """Raise Unshowable for a medium that a model with this profile cannot get."""
    if part["type"] == "image_url" and not profile.vision:
        raise unseen(path)
    url = address_of(part)
    if url is not None and not profile.fetches_images and not url.startswith("data:"):
        reason = f"{MEDIA[part['type']]}s are not fetched here"
        raise Unshowable(path, reason, "send it as a data: URL")


def pulled_out(content: Content, media: list[JsonObject], approximations: Approximations) -> str:
    """Return a tool's result as text, and append its media to ``media``.

    A node accepts media only in a user's message (nodes.md 4.1.2).
    """
    if isinstance(content, str):
        return content
    texts: list[str | JsonObject] = []
    for part in content:
        if part["type"] == "text":
            texts.append(part["text"])
            continue
        media.append(part)
        medium = MEDIA.get(part["type"], "part")
        approximations.note(f"tool_result_{medium}")
        texts.append(words.attached(medium, len(media)))
    text = of_pieces(texts)
    return text if isinstance(text, str) else ""


def note_order(content: Content, profile: Profile, approximations: Approximations) -> None:
    """Note a content whose media the node moves before its text."""
    if profile.images_first and not isinstance(content, str):
        are_texts = [part["type"] == "text" for part in content]
        if are_texts != sorted(are_texts):
            approximations.note("image_order")
