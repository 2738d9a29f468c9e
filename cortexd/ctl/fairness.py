"""What ``cortexctl`` says about requests of other keys that came first."""

from __future__ import annotations

from cortexd.control.summaries import RequestSummary
from cortexd.fleet.nodes import counted


def passed_words(request: RequestSummary) -> str:
    """Say how many later requests were granted before one, and why; empty for none."""
    reasons = []
    if request.passed_by_class:
        reasons.append(f"{counted(request.passed_by_class, 'later request')} of another class")
    if request.passed_by_share:
        words = counted(request.passed_by_share, "later request")
        reasons.append(f"{words} of keys that had used less of the GPUs")
    return f", where {' and '.join(reasons)} came first" if reasons else ""
