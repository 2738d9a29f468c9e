"""What an upstream can do, as far as a translation onto it depends on that.

The defaults are those of a mistral.rs node of v0.9.2 or newer (nodes.md 4.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple


class Speaks(Enum):
    """Which dialects an upstream takes requests in."""

    CHAT = "chat"
    """Chat completions and their sisters; a Messages request is translated."""

    BOTH = "both"
    """These, and a Messages request as it is."""

    MESSAGES = "messages"
    """Messages and nothing else; a chat is translated."""


class NodeKind(NamedTuple):
    """What requests a node takes, whichever of its models they are for.

    ``keeps_state`` says that it keeps responses, sessions and files for clients.
    """

    speaks: Speaks = Speaks.CHAT
    keeps_state: bool = True


class ThinkingWish(Enum):
    """What a client wants of the model's thinking in the answer."""

    NONE = "none"
    """The client did not ask for any."""

    SHOWN = "shown"
    WITHHELD = "withheld"
    """The model thinks and the client is told so, but not what."""


class ReasoningControl(Enum):
    """How an upstream is told whether, and how hard, a model should think."""

    NONE = "none"
    TOGGLE = "toggle"
    """By ``enable_thinking``, and besides it ``reasoning_effort`` up to ``xhigh``."""

    EFFORT = "effort"
    """By ``reasoning_effort`` alone, up to ``high``."""


class MidSystem(Enum):
    """What becomes of a system message in the middle of a conversation."""

    PASS = "pass"  # noqa: S105 - it passes through; nobody's password
    USER = "user"
    """Its text is wrapped as a reminder and joins the neighbouring user turn."""

    HOIST = "hoist"
    """Its text joins the system prompt, at the cost of the prefix cache."""


class ToolIdFormat(Enum):
    """Which ids of tool calls an upstream's chat template takes."""

    ANY = "any"
    MISTRAL9 = "mistral9"
    """Nine letters and digits, and nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Profile:
    """What an upstream can do, for one model.

    Requests have their translations by it, so each kind of upstream has one and the same.
    ``speaks`` and ``keeps_state`` are those of its NodeKind.
    ``context_window`` and ``max_output`` are in tokens, ``None`` where unknown. ``alternate`` says
    that user and assistant turns must alternate. ``images_first`` says that the upstream puts the
    images of a message before its text, and ``fetches_images`` that it may be sent image URLs to
    fetch. ``parallel_flag`` says that the upstream itself heeds ``parallel_tool_calls``.
    ``continue_final_message`` says that it can go on with an answer the client began.
    ``inline_thinking`` says that thinking comes inside the text, between ``<think>`` tags.
    ``forward_stop`` sends the client's stop sequences upstream, instead of looking for them in the
    answer: which of them was met is then not known.
    """

    speaks: Speaks = Speaks.CHAT
    keeps_state: bool = True
    context_window: int | None = None
    max_output: int | None = None
    reasoning_control: ReasoningControl = ReasoningControl.TOGGLE
    mid_system: MidSystem = MidSystem.USER
    alternate: bool = True
    vision: bool = True
    images_first: bool = True
    fetches_images: bool = True
    top_k: bool = True
    required_tool_choice: bool = True
    parallel_flag: bool = False
    tool_id_format: ToolIdFormat = ToolIdFormat.ANY
    continue_final_message: bool = False
    inline_thinking: bool = False
    forward_stop: bool = False

    @property
    def kind(self) -> NodeKind:
        """The kind of the upstream's node."""
        return NodeKind(self.speaks, self.keeps_state)


MISTRALRS: Final = Profile()
