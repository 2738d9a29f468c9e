"""What ``cortexctl why`` says about a request, and about those of other keys that came first."""

from __future__ import annotations

from typing import Final

from cortexd.control.summaries import RequestSummary
from cortexd.ctl.spans import duration
from cortexd.fleet.nodes import counted

_AFFINITY: Final = {
    "session": ", which has read its conversation",
    "prefix": ", which has read the beginning of its prompt",
    "elsewhere": ", although another copy has read the beginning of its prompt",
    "new": "",
}


def request_words(request: RequestSummary) -> str:
    """Say how a request was answered, and how long it waited."""
    key = f" with the key {request.key}" if request.key else ""
    words = f"{request.request_id} requested {request.model}{key}: {request.outcome}"
    if request.node is not None:
        words += f", answered on {request.node}"
    words += _AFFINITY.get(request.affinity, "")
    words += f", {duration(request.queued_seconds)} in the queue{passed_words(request)}"
    return words if request.node is None else f"{words}, {duration(request.age_seconds)} ago"


def passed_words(request: RequestSummary) -> str:
    """Say how many later requests were granted before one, and why; empty for none."""
    reasons = []
    if request.passed_by_class:
        reasons.append(f"{counted(request.passed_by_class, 'later request')} of another class")
    if request.passed_by_share:
        words = counted(request.passed_by_share, "later request")
        reasons.append(f"{words} of keys that had used less of the GPUs")
    return f", where {' and '.join(reasons)} came first" if reasons else ""
