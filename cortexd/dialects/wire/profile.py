"""The capabilities of an upstream that a translation depends on.

The defaults are those of a mistral.rs node of v0.9.2 or newer (nodes.md 4.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple


class Speaks(Enum):
    """The dialects in which an upstream accepts requests."""

    CHAT = "chat"
    """Chat completions and the other OpenAI routes; a Messages request is translated."""

    BOTH = "both"
    """The same, and also Messages requests, which are passed unchanged."""

    MESSAGES = "messages"
    """Only Messages; a chat is translated."""


class NodeKind(NamedTuple):
    """The capabilities of a node that are the same for all of its models.

    ``keeps_state`` means that it stores responses, sessions and files for clients, and
    ``native_responses`` that it gets requests for responses as the client sent them.
    """

    speaks: Speaks = Speaks.CHAT
    keeps_state: bool = True
    native_responses: bool = False


class ThinkingWish(Enum):
    """How much of the model's thinking a client wants in the answer."""

    NONE = "none"
    """The client did not request thinking."""

    SHOWN = "shown"
    WITHHELD = "withheld"
    """The answer says that the model thinks, without the thinking itself."""


class ReasoningControl(Enum):
    """How a request controls whether a model thinks, and how much."""

    NONE = "none"
    TOGGLE = "toggle"
    """By ``enable_thinking``, and also by ``reasoning_effort`` up to ``xhigh``."""

    EFFORT = "effort"
    """By ``reasoning_effort`` alone, up to ``high``."""


class MidSystem(Enum):
    """What happens to a system message in the middle of a conversation."""

    PASS = "pass"  # noqa: S105 - it passes through, and is not a password
    USER = "user"
    """Its text is wrapped as a reminder and joins the neighbouring user turn."""

    HOIST = "hoist"
    """Its text joins the system prompt, at the cost of the prefix cache."""


class ToolIdFormat(Enum):
    """The ids of tool calls that an upstream's chat template accepts."""

    ANY = "any"
    MISTRAL9 = "mistral9"
    """Exactly nine letters and digits."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Profile:
    """The capabilities of an upstream, for one model.

    A request has one translation for each profile, so all upstreams of a kind share one profile.
    ``speaks``, ``keeps_state`` and ``native_responses`` are those of its NodeKind.
    ``context_window`` and ``max_output`` are in tokens, ``None`` if unknown. ``alternate`` means
    that user and assistant turns must alternate, ``images_first`` that the upstream puts the images
    of a message before its text, and ``fetches_images`` that requests may contain image URLs for
    the upstream to fetch.
    ``parallel_flag`` means that the upstream itself supports ``parallel_tool_calls``,
    ``continue_final_message`` that it can continue an answer which the client began, and
    ``inline_thinking`` that thinking comes inside the text, between ``<think>`` tags. With
    ``forward_stop``, the upstream gets the client's stop sequences, and the sequence that stopped
    an answer is unknown; otherwise we look for them in the answer.

    The following describe the model's chat template. ``system_role`` means that it knows the role
    ``system``, ``tool_turns`` that it shows calls of tools and their results, ``parallel_calls``
    that it shows all calls of one turn, ``text_beside_calls`` that it shows the text of a turn with
    calls, and ``user_after_tool`` that a user turn may follow results directly. ``efforts`` are the
    levels of ``reasoning_effort`` that it accepts, ``None`` for all.

    With ``hygiene``, lines that clients change in each request are left out of the system prompt
    (``dialects.hygiene``).
    """

    speaks: Speaks = Speaks.CHAT
    keeps_state: bool = True
    native_responses: bool = False
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
    system_role: bool = True
    tool_turns: bool = True
    parallel_calls: bool = True
    text_beside_calls: bool = True
    user_after_tool: bool = True
    efforts: tuple[str, ...] | None = None
    hygiene: bool = True

    @property
    def kind(self) -> NodeKind:
        """The kind of the upstream's node."""
        return NodeKind(self.speaks, self.keeps_state, self.native_responses)


MISTRALRS: Final = Profile()
