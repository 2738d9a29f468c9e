"""The abilities of a chat template, as a probe found them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from cortexd.dialects.wire.json_values import JsonObject
from cortexd.dialects.wire.profile import MidSystem, Profile, ReasoningControl, ToolIdFormat

EFFORTS: Final = ("low", "medium", "high", "xhigh")
"""The efforts that a probe asks for: all that a node accepts with thinking on (nodes.md 4.1)."""

FOR_PEOPLE: Final = frozenset({"developer", "text_arrays", "tools"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """The abilities of a model's chat template; ``None`` where a probe could not tell.

    Those that a profile has too mean the same there (``cortexd.dialects.wire.profile``), except
    that ``efforts`` lists all of ``EFFORTS`` where the template accepts each. The other three are
    for operators only: ``developer`` means that a text of this role is shown, ``text_arrays`` that
    a user's text in an array is, and ``tools`` that the descriptions of tools are.
    """

    system_role: bool | None = None
    mid_system: MidSystem | None = None
    developer: bool | None = None
    text_arrays: bool | None = None
    alternate: bool | None = None
    tools: bool | None = None
    tool_turns: bool | None = None
    parallel_calls: bool | None = None
    text_beside_calls: bool | None = None
    user_after_tool: bool | None = None
    tool_id_format: ToolIdFormat | None = None
    efforts: tuple[str, ...] | None = None
    reasoning_control: ReasoningControl | None = None
    vision: bool | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the probe found out nothing at all."""
        return not self._known()

    def applied_to(self, profile: Profile) -> Profile:
        """Return the profile with the known abilities, itself if it has them all."""
        known = {name: each for name, each in self._known().items() if name not in FOR_PEOPLE}
        if self.efforts == EFFORTS:
            known["efforts"] = None
        if all(getattr(profile, name) == value for name, value in known.items()):
            return profile
        return dataclasses.replace(profile, **known)

    def without(self, names: Collection[str]) -> Learned:
        """Return the abilities without these, itself if none of them is known."""
        gone = {name: None for name in names if getattr(self, name, None) is not None}
        changes: dict[str, Any] = dict(gone)
        return dataclasses.replace(self, **changes) if changes else self

    def to_json(self) -> JsonObject:
        """Return the known abilities as a JSON object."""
        value: JsonObject = msgspec.to_builtins(self._known())
        return value

    @classmethod
    def from_json(cls, value: object) -> Learned:
        """Return the abilities that a JSON object names.

        A name that this version does not know is ignored. Raises ValueError for anything else that
        ``to_json`` does not make.
        """
        try:
            return msgspec.convert(value, cls)
        except msgspec.ValidationError as error:  # a ValueError only in newer versions
            raise ValueError(str(error)) from None

    def words(self) -> dict[str, str]:
        """Return a word for people for each ability, by its name."""
        return {each.name: _word(getattr(self, each.name)) for each in dataclasses.fields(self)}

    def _known(self) -> dict[str, Any]:
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value is not None}


def _word(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(value) or "none"
    return str(value.value)
