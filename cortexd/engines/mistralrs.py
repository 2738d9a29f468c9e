"""The engine mistral.rs: it loads and unloads models by order, and stores state for clients.

Facts are from nodes.md 1, 2, 5 and 7.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cortexd.dialects.nodes import mistralrs, mistralrs_lifecycle, mistralrs_state
from cortexd.dialects.nodes.answers import BadAnswer
from cortexd.engines.engine import Abilities, Ask, Dialect, Engine
from cortexd.fleet.outcomes import Outcome
from cortexd.fleet.states import Hardware, Observation, SystemInfo

FIRST_SAFE_VERSION: Final = (0, 9, 1)
"""Earlier versions with several models lose a model on its unload, without freeing its memory
(nodes.md 2.4.1)."""


class MistralRs(Engine):
    """A mistral.rs server.

    It lacks ``counts_tokens``, because it counts with its default model's tokenizer, whichever
    model the request names (nodes.md 5.6).
    """

    name = "mistralrs"
    abilities = Abilities(
        dialects=frozenset({Dialect.CHAT, Dialect.MESSAGES}),
        is_managed=True,
        tells_memory=True,
        counts_requests=True,
        answers_responses=True,
        keeps_state=True,
    )

    def listing(self) -> Ask[Observation]:
        """Ask for the server's models, each with its state; see Engine."""
        return Ask("GET", mistralrs.MODELS_PATH, mistralrs.read_listing)

    def system(self) -> Ask[SystemInfo]:
        """Ask for the server's version and memory; see Engine."""
        return Ask("GET", mistralrs.SYSTEM_INFO_PATH, mistralrs.read_system_info)

    def health(self) -> Ask[Any]:
        """Ask for the server's health; it looks at no model (nodes.md 7.1); see Engine."""
        return Ask("GET", mistralrs.HEALTH_PATH, len)

    def hardware(self) -> Ask[Hardware]:
        """Ask for the server's version, memory and accelerators; see Engine."""
        return Ask("GET", mistralrs.SYSTEM_INFO_PATH, mistralrs.read_hardware)

    def status(self, model: str) -> Ask[Outcome]:
        """Ask for the status of one model; see Engine."""
        return _operation(mistralrs_lifecycle.STATUS_PATH, model)

    def load(self, model: str) -> Ask[Outcome]:
        """Order the server to reload a model that is exactly unloaded; see Engine.

        A second reload bricks the model's id until the server restarts (nodes.md 2.3.2).
        """
        return _operation(mistralrs_lifecycle.RELOAD_PATH, model, once=True)

    def unload(self, model: str) -> Ask[Outcome]:
        """Order the server to unload a model; see Engine.

        The server frees the model's memory only later, if at all (nodes.md 2.5.4 and 2.6).
        """
        return _operation(mistralrs_lifecycle.UNLOAD_PATH, model, once=True)

    def lost_by_load(self) -> str:
        """Return why the server lost a model on its reload; see Engine (nodes.md 2.3)."""
        return (
            "it was not unloaded when its reload began, which makes its id unusable: restart the "
            "node"
        )

    def harm_of_unload(self, version: str, models: int) -> str | None:
        """Return why an old version loses a model on its unload; see Engine (nodes.md 2.4.1)."""
        parts = version.split(".")[:3]
        is_numbered = all(map(str.isdecimal, parts))
        if models <= 1 or not is_numbered or tuple(map(int, parts)) >= FIRST_SAFE_VERSION:
            return None
        return (
            f"mistral.rs {version} loses a model that it unloads, and does not free its memory: "
            "update the node to 0.9.2 or later"
        )

    def requests_in_flight(self) -> Ask[Mapping[str, int] | None]:
        """Ask for the server's gauge of requests; see Engine.

        A missing model has received no request. The answer is ``None`` with metrics switched off,
        and before v0.8.4.
        """
        return Ask(
            "GET",
            mistralrs_lifecycle.METRICS_PATH,
            mistralrs_lifecycle.read_in_flight,
            otherwise=_not_counted,
        )

    def running_on(self, counts: Mapping[str, int], model: str) -> int:
        """Return the number of requests on a model or its adapters; see Engine."""
        return mistralrs_lifecycle.running_on(counts, model)

    # Direct references save a call for each event.
    kept_by_event = staticmethod(mistralrs_state.kept_by_event)
    kept_by_body = staticmethod(mistralrs_state.kept_by_body)


def _operation(path: str, model: str, *, once: bool = False) -> Ask[Outcome]:
    body = mistralrs_lifecycle.operation_body(model)
    return Ask("POST", path, mistralrs_lifecycle.read_outcome, body, once=once)


def _not_counted(status: int, _: bytes) -> None:
    if status not in (404, 503):
        raise BadAnswer(f"answered with status {status}")
