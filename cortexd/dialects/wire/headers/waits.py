"""The header that says how long a request was expected to wait for a replica."""

from __future__ import annotations

ETA_HEADER = "X-Cortex-Eta-Ms"


def eta_headers(seconds: float | None) -> dict[str, str]:
    """Return the header of a wait that was expected to take ``seconds``, none without a wait."""
    return {} if seconds is None else {ETA_HEADER: str(round(seconds * 1000))}
