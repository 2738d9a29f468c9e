"""Checks of each case: the request that reached the node, and the answer due to the client."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from bench.fuzz.answers import NodeAnswer
from bench.fuzz.asking import (
    CHAT,
    CLIENT_HEADERS,
    COUNT_TOKENS,
    MESSAGES,
    RESPONSES,
    Asked,
    upstream_path,
)
from bench.fuzz.cases import Case
from bench.fuzz.hearing import Wrong
from bench.fuzz.refusals import TOO_DEEP, refusal_of
from bench.fuzz.verdicts import Answered, Expected
from cortexd.dialects.nodes.errors import read_error
from cortexd.dialects.wire.profile import Speaks

_NUMBERS = re.compile(r"\b\d+\b")
_JUDGED_BY_NODES = ("input_schema.type", "invalid base64 data", "base64.media_type")
"""Of a chat made Messages, what is the client's as it is: its schemas and its files."""


def check_asked(case: Case, asked: Sequence[Asked], *, has_first_profile: bool) -> None:
    """Raise Wrong if the gateway sent a request that the node rejects, without the client's fault.

    A chat passes nearly unchanged to a node of its dialect, which alone judges it unless it is
    good. A Messages request passes likewise, and the node must accept it if it would have accepted
    the client's own request.
    """
    if len(asked) > 1:
        raise Wrong("the node was asked more than once")
    for each in asked:
        if each.path != upstream_path(case.route, case.speaks):
            raise Wrong(f"the node was asked for {each.path}")
        words = _refusal_words(each, case.speaks)
        if words and not _may_be_refused(case, words, has_first_profile):
            raise Wrong(f"a {case.kind} body became one that a node does not take: {words[:80]}")


def _may_be_refused(case: Case, words: str, has_first_profile: bool) -> bool:
    """Whether the node may refuse what it was asked, in these words, for the body's sake."""
    if case.is_passed_on and case.route in (MESSAGES, COUNT_TOKENS):
        of_the_client = Asked(case.route, case.body, CLIENT_HEADERS)
        return refusal_of(of_the_client, case.speaks) is not None
    if case.is_passed_on:
        return case.kind != "good"
    if case.route in (CHAT, RESPONSES) and case.speaks is Speaks.MESSAGES:
        return case.kind != "good" and any(part in words for part in _JUDGED_BY_NODES)
    # Another profile may have a node refuse what a mistral.rs node does not.
    return not has_first_profile


def _refusal_words(asked: Asked, speaks: Speaks) -> str:
    """Return the words with which a node refuses a body, without numbers; none where it does not.

    How deep a nest may be the gateway need not know.
    """
    refusal = refusal_of(asked, speaks)
    if refusal is None or refusal is TOO_DEEP:
        return ""
    return _NUMBERS.sub("#", read_error(400, refusal.pieces[0]).message)


def _forces_custom_tool(case: Case) -> bool:
    """Return whether a response must call a custom tool, which no node's own responses have."""
    if case.route != RESPONSES or not case.is_good:
        return False
    body = json.loads(case.body)
    choice = body.get("tool_choice")
    if choice == "required":
        return all(tool["type"] == "custom" for tool in body["tools"])
    return isinstance(choice, dict) and '"custom"' in json.dumps(choice)


def expected_of(
    case: Case, said: NodeAnswer | None, *, node_refused: bool, may_refuse: bool = False
) -> Expected:
    """Return what the client must get where its node said this, ``None`` where it was not asked.

    ``may_refuse`` says that the upstream's profile has not all that a good body may ask for.
    """
    node_failed = said is not None and said.is_fault
    may_refuse = may_refuse or (case.is_passed_on and _forces_custom_tool(case))
    must_succeed = case.is_good and not (node_failed or node_refused or may_refuse)
    at_another_dialect = case.speaks is Speaks.MESSAGES and not case.is_passed_on
    if at_another_dialect and case.route not in (CHAT, RESPONSES):
        must_succeed = False  # nothing else is translated for such a node
    is_whole = said is not None and not node_failed and not node_refused
    # What is made of a chat may be complete before the node has ended.
    is_cut_short = case.route in (MESSAGES, RESPONSES) and not case.is_passed_on
    return Expected(
        case.route,
        must_succeed=must_succeed,
        node_failed=node_failed,
        streams=case.streams,
        may_lack=at_another_dialect,
        must_fail=said is not None and said.is_broken and not is_cut_short,
        is_passed_on=case.is_passed_on,
        said=said.said if said is not None and is_whole else None,
    )


def outcome_of(answered: Answered) -> str:
    """Return the outcome under which an answer counts."""
    return f"{answered.status}{', cut' if answered.is_cut and answered.status == 200 else ''}"
