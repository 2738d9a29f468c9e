"""The abilities of chat templates in words: pure functions of the daemon's answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from cortexd.control.summaries import AbilitiesSummary
from cortexd.text import one_line

ALL_EFFORTS: Final = "low medium high xhigh"

_NOTES: Final[Mapping[tuple[str, str], str]] = {
    ("system_role", "no"): "no system",
    ("mid_system", "user"): "system only in front",
    ("alternate", "yes"): "strict turns",
    ("tools", "no"): "no tools",
    ("tool_turns", "no"): "no tool turns",
    ("parallel_calls", "no"): "one call a turn",
    ("text_beside_calls", "no"): "no text beside calls",
    ("user_after_tool", "no"): "no user after results",
    ("tool_id_format", "mistral9"): "ids of 9",
    ("vision", "no"): "no pictures",
}
"""What a template cannot do, in words, by ability and value; the rest is as clients expect."""


def ability_notes(abilities: Sequence[AbilitiesSummary]) -> str:
    """Return what a model's template cannot do, in a few words; ``?`` before any probe of it.

    Nodes with different templates are shown one by one.
    """
    notes = {each.node: _notes(each.words) for each in abilities if each.words}
    if len(set(notes.values())) <= 1:
        return next(iter(notes.values()), "?")
    return "; ".join(f"{node}: {words}" for node, words in notes.items())


def _notes(words: Mapping[str, str]) -> str:
    found = [note for (name, value), note in _NOTES.items() if words.get(name) == value]
    efforts = words.get("efforts", ALL_EFFORTS)
    if efforts not in (ALL_EFFORTS, "unknown"):
        found.append(f"efforts {efforts}")
    return ", ".join(found) or "-"


def abilities_text(abilities: AbilitiesSummary) -> str:
    """Show all that is known of a model's template on one node."""
    lines = [f"{abilities.node}:"]
    if abilities.reason:
        lines.append(f"  the probe failed: {abilities.reason}")
    width = max(map(len, abilities.words), default=0)
    lines += [f"  {name.ljust(width)}  {word}" for name, word in abilities.words.items()]
    if not abilities.words and not abilities.reason:
        lines.append("  nothing is known")
    return "".join(_kept_indent(line) + "\n" for line in lines)


def _kept_indent(line: str) -> str:
    text = line.lstrip(" ")
    return " " * (len(line) - len(text)) + one_line(text)
