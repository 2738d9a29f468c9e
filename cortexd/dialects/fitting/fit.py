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

from cortexd.dialects.fitting.pictures import note_order
from cortexd.dialects.fitting.reading import MessageReader
from cortexd.dialects.fitting.systems import placed, with_system
from cortexd.dialects.fitting.turns import RunFitter, begun, runs, without_silence
from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.json_values import JsonObject
from cortexd.dialects.wire.profile import Profile


def fit_messages(
    messages: Sequence[JsonObject],
    profile: Profile,
    approximations: Approximations,
    paths: Sequence[str] | None = None,
) -> list[JsonObject]:
    """Return neutral messages as nodes of a profile show them to the model.

    ``paths`` are those of the messages in the client's request. Each change that a reader of the
    conversation could notice is noted in ``approximations``. Never raises for a message that an
    earlier turn may have: a history never ends a conversation. Raises Unshowable, with its path,
    for an image in the newest user turn that the model cannot get.
    """
    if not messages:
        return []
    if paths is None:
        paths = [f"messages[{index}]" for index in range(len(messages))]
    read = list(MessageReader(profile, approximations).read(messages, paths))
    spoken = without_silence(read, approximations)
    system, turns = placed(spoken, profile, approximations)
    fitter = RunFitter(profile, approximations)
    fitted = [message for run in runs(turns) for message in fitter.fitted(*run)]
    in_turn = bool(system) and not profile.system_role
    # A template that takes turns in any order lets the model begin, as a probe has seen.
    if in_turn or profile.alternate or not any(each["role"] == "user" for each in fitted):
        fitted = begun(fitted, approximations, has_system_text=in_turn)
    fitted = with_system(system, fitted, profile, approximations)
    for message in fitted:
        if isinstance(message["content"], list):
            note_order(message["content"], profile, approximations)
    return fitted
