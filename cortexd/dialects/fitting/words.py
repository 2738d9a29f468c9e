"""The words that stand in a conversation for things that a chat template cannot show.

The model reads them, so they are short, and in brackets: nobody in the conversation said them.
"""

from __future__ import annotations

from typing import Final

OPENING: Final = "[The conversation begins.]"
"""The user turn of a conversation that would begin with the model."""

GO_ON: Final = "[Go on.]"
"""The user turn between a text of the model and its calls, if the template shows no text beside
calls and wants user and assistant to alternate."""

READ: Final = "[I have read the results.]"
"""The assistant turn between results and the user, if the template wants one there."""

NO_RESULT: Final = "[no result]"
"""The result of a call that has none in the conversation."""

EMPTY: Final = "[nothing]"
"""The text of an earlier turn that is empty, for a node that rejects empty turns."""

_LONGEST_NAME: Final = 64


def called(name: str, arguments: str) -> str:
    """Return the text of a call, for a template that shows no calls."""
    return f"[I call the tool {name} with the arguments {arguments}]"


def answered(name: str, result: str) -> str:
    """Return the text of a call's result, for a template that shows no results."""
    return f"[The tool {name} returned:]\n{result}"


def unasked(name: str) -> str:
    """Return the text before a result whose call is not in the conversation."""
    return f"[A tool{f' {name}' if name else ''} returned, in answer to an earlier call:]"


def attached(medium: str, number: int) -> str:
    """Return the text of a tool's result that stands for its picture in the next user turn."""
    return f"[{medium} {number} attached below]"


def omitted(kind: str, reason: str = "") -> str:
    """Return the text for a part of a content that the model cannot get."""
    return f"[{kind[:_LONGEST_NAME]} omitted{f': {reason}' if reason else ''}]"


def said_by(role: str, text: str) -> str:
    """Return the text of a message whose role no template knows."""
    return f"[{role[:_LONGEST_NAME]}:] {text}"
