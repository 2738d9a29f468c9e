"""Fits the messages of a chat to the chat template of a model.

Every route that sends a chat to a node builds its messages in a *neutral* form first:

- the roles are ``system``, ``developer``, ``user``, ``assistant`` and ``tool``;
- a content is a string, a list of parts, or ``None``; a tool's content may have images;
- an assistant's thinking is in ``reasoning_content``, its calls are in ``tool_calls``, with the
  client's ids and arguments.

``fit_messages`` makes of them what a node of the profile shows to the model whole.
"""

from __future__ import annotations

from collections.abc import Sequence

from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.json_values import JsonObject
from cortexd.dialects.wire.profile import Profile


def fit_messages(
    messages: Sequence[JsonObject], profile: Profile, approximations: Approximations
) -> list[JsonObject]:
    """Return neutral messages as nodes of a profile show them to the model.

    Each change that a reader of the conversation could notice is noted in ``approximations``. Never
    raises for a message that an earlier turn may have: a history never ends a conversation.
    """
    return list(messages)
