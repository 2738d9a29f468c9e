"""The models of one simulated node and the memory they take: plain state, `now` passed in.

A process knows each configured model as loaded or unloaded, and also has a set of ids that are
being reloaded. That set is the cause of mistral.rs's worst trap: `reload` adds the id *before* it
checks whether the model is unloaded, and an early rejection never removes it. So the reload of a
loaded or unknown id leaves the id `reloading` until the process restarts.

Memory has its own timing: a load claims its model's size when it starts, and an unload frees it
after its answer, except for what it leaks.
"""

import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["chat", "embedding", "image", "speech"]
Status = Literal[
    "loaded", "unloaded", "reloading", "not_found", "no_loader_config", "internal_error"
]

DEFAULT_MODEL = "default"
# Before this version, several models from one file had no loader configuration of their own: an
# unload lost the model and did not free its memory.
FIRST_WITH_LOADER_CONFIGURATIONS = (0, 9, 1)


class TemplateError(Exception):
    """Raised with the node's words for a chat of which a chat template makes no prompt."""


@dataclass(frozen=True, kw_only=True)
class SimulatedModel:
    """A model as the node's operator configured it.

    `loaded` is its state at the start of the process, unless the node overrides it. `load_seconds`
    is the duration of a load, `thinks` says whether its answers begin with reasoning, and
    `context_tokens` limits prompt plus answer. Its tokenizer makes `tokens_per_word` tokens from
    each word of a prompt. `render` makes the prompt of a chat request's JSON fields, as its chat
    template does, and raises TemplateError; without it, the prompt is the text of the messages.

    With `vision` it sees pictures, which cost tokens, and else it ignores them. Without
    `has_chat_template` it takes completions only. `call_marker_tokens` is the number of tokens with
    which it begins a call. `adapters` has the aliases of its LoRA adapters.
    """

    id: str
    size_mb: int = 1000
    load_seconds: float = 0.0
    kind: Kind = "chat"
    loaded: bool = True
    thinks: bool = False
    context_tokens: int = 4096
    tokens_per_word: int = 1
    render: Callable[[dict[str, Any]], str] | None = None
    vision: bool = False
    has_chat_template: bool = True
    call_marker_tokens: int = 1
    adapters: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One line of the model list; only the pseudo-model `default` has no status.

    An adapter has its alias as `root`, and its model as `parent`.
    """

    id: str
    status: Status | None
    root: str | None = None
    parent: str | None = None


class NotAvailableError(Exception):
    """Raised when no model can take an inference request; the message is mistral.rs's."""


class AmbiguousAdapterError(Exception):
    """Raised for an alias that adapters of several models have; the message is mistral.rs's."""


def _spelt(part: str) -> str:
    """Return a model's id or an adapter's alias as it stands in the id of an adapter."""
    return part.replace("%", "%25").replace(":", "%3A").replace("#", "%23")


@dataclass(kw_only=True)
class _Lingering:
    """Memory of an unloaded model that is not free yet."""

    until: float
    size_mb: int


class ModelStore:
    """The models of a node, their states and their memory.

    `starts_loaded` has the ids that start loaded; if it is None, each model's `loaded` applies.
    `process_number` counts the starts of the process. It determines the order of the list of
    models, which is that of a hash map in mistral.rs.
    """

    def __init__(
        self,
        models: Sequence[SimulatedModel],
        *,
        memory_mb: int,
        version: tuple[int, ...],
        starts_loaded: Collection[str] | None = None,
        process_number: int = 1,
    ) -> None:
        self._models = {model.id: model for model in models}
        self._memory_mb = memory_mb
        self._process_number = process_number
        self._can_come_back = version >= FIRST_WITH_LOADER_CONFIGURATIONS or len(models) == 1
        if starts_loaded is None:
            starts_loaded = [model.id for model in models if model.loaded]
        unknown = set(starts_loaded) - set(self._models)
        if unknown:
            raise ValueError(f"not configured, and cannot start loaded: {', '.join(unknown)}")
        self._loaded = set(starts_loaded)
        self._unloaded = set(self._models) - self._loaded
        self._reloading: set[str] = set()
        self._loading: set[str] = set()
        self._claimed: set[str] = set()
        self._lingering: list[_Lingering] = []
        self._lost_mb = 0
        # The default is the first configured model that starts loaded.
        self._default: str | None = next(
            (model.id for model in models if model.id in self._loaded), None
        )

    @property
    def loaded(self) -> tuple[str, ...]:
        """The ids of the loaded models, sorted."""
        return tuple(sorted(self._loaded))

    @property
    def loading(self) -> tuple[str, ...]:
        """The ids of the models that are being loaded, sorted; stuck ids are not included."""
        return tuple(sorted(self._loading))

    @property
    def default(self) -> str | None:
        """The model of the name `default`; None once the last loaded model was unloaded."""
        return self._default

    def configured(self, model_id: str) -> SimulatedModel:
        """Return a configured model's description; KeyError for an unknown id."""
        return self._models[model_id]

    def resident_mb(self, now: float) -> int:
        """Return the MiB in use at `now`: loaded, loading, not yet freed, and leaked."""
        self._lingering = [memory for memory in self._lingering if memory.until > now]
        held = self._loaded | self._claimed
        return (
            sum(self._models[model_id].size_mb for model_id in held)
            + sum(memory.size_mb for memory in self._lingering)
            + self._lost_mb
        )

    def listed(self) -> list[Listed]:
        """Return the list of models: `default`, then reloading, loaded and unloaded models.

        The adapters of loaded models come last. A stuck id that is loaded appears twice. The order
        within a group is arbitrary, and constant for the life of the process.
        """
        groups: list[tuple[Status, set[str]]] = [
            ("reloading", self._reloading),
            ("loaded", self._loaded),
            ("unloaded", self._unloaded - self._reloading),
        ]
        return [
            Listed(id=DEFAULT_MODEL, status=None),
            *(
                Listed(id=model_id, status=status)
                for status, ids in groups
                for model_id in sorted(ids, key=self._hash_order)
            ),
            *self.adapters(),
        ]

    def adapters(self) -> list[Listed]:
        """Return the lines of the adapters, which are there only while their model is loaded."""
        return [
            Listed(
                id=f"{_spelt(model_id)}::{_spelt(alias)}",
                status="loaded",
                root=alias,
                parent=model_id,
            )
            for model_id in sorted(self._loaded)
            for alias in sorted(self._models[model_id].adapters)
        ]

    def _hash_order(self, model_id: str) -> int:
        return zlib.crc32(f"{self._process_number}:{model_id}".encode())

    def status(self, model_id: str) -> Status:
        """Return the state for the status route."""
        if model_id in self._reloading:
            return "reloading"
        if model_id in self._loaded:
            return "loaded"
        if model_id in self._unloaded:
            return "unloaded"
        return "not_found"

    def unload(
        self,
        model_id: str,
        now: float,
        *,
        free_after: float = 0.0,
        free_steps: int = 1,
        leaked_mb: int = 0,
    ) -> Status:
        """Unload a model and return the state for the unload route.

        `leaked_mb` of its memory are never freed. The rest is freed in `free_steps` equal steps,
        the last of them `free_after` seconds from `now`. A model that is unloaded or being reloaded
        stays unchanged, and the result is `unloaded`.
        """
        if model_id in self._unloaded:
            return "unloaded"
        if model_id not in self._loaded:
            return "not_found"
        size_mb = self._models[model_id].size_mb
        self._loaded.discard(model_id)
        if self._default == model_id:
            self._default = min(self._loaded, key=self._hash_order, default=None)
        if not self._can_come_back:
            self._lost_mb += size_mb
            return "no_loader_config"
        self._unloaded.add(model_id)
        leaked_mb = min(leaked_mb, size_mb)
        self._lost_mb += leaked_mb
        if free_after > 0:
            size_mb -= leaked_mb
            for step in range(1, free_steps + 1):
                piece_mb = size_mb * step // free_steps - size_mb * (step - 1) // free_steps
                until = now + free_after * step / free_steps
                self._lingering.append(_Lingering(until=until, size_mb=piece_mb))
        return "unloaded"

    def begin_load(self, model_id: str) -> Status | None:
        """Start a reload; None if a load has begun, else the state that prevents it.

        Here is the trap described above: a `not_found` leaves the id reloading for ever.
        """
        if model_id in self._reloading:
            return "reloading"
        self._reloading.add(model_id)
        if model_id not in self._unloaded:
            return "not_found"
        self._loading.add(model_id)
        return None

    def claim_memory(
        self, model_id: str, now: float, *, may_overfill: bool, others_mb: int = 0
    ) -> bool:
        """Claim the memory of a load that `begin_load` started; False if it is not free.

        Other programs take `others_mb`. With `may_overfill` the memory is claimed even if it is not
        free.
        """
        size_mb = self._models[model_id].size_mb
        if not may_overfill and size_mb + others_mb > self.free_mb(now):
            return False
        self._claimed.add(model_id)
        return True

    def end_load(self, model_id: str, *, loaded: bool) -> None:
        """End the load that `begin_load` started: the model is loaded, or unloaded as before."""
        self._stop_loading(model_id)
        self._reloading.discard(model_id)
        if loaded:
            self._unloaded.discard(model_id)
            self._loaded.add(model_id)

    def panic_load(self, model_id: str) -> None:
        """End the load that `begin_load` started in a panic: the id stays reloading for ever."""
        self._stop_loading(model_id)

    def _stop_loading(self, model_id: str) -> None:
        self._claimed.discard(model_id)
        self._loading.discard(model_id)

    def free_mb(self, now: float) -> int:
        """Return the MiB free at `now`, never below 0."""
        return max(0, self._memory_mb - self.resident_mb(now))

    def known(self, name: str) -> bool:
        """Return whether an inference request may use this name: `default`, or a configured id."""
        return name == DEFAULT_MODEL or name in self._loaded or name in self._unloaded

    def base_of(self, name: str) -> str:
        """Return the model of an adapter's id or of its bare alias, and any other name as it is.

        Raises AmbiguousAdapterError for an alias of several models.
        """
        if self.known(name):
            return name
        adapters = self.adapters()
        found = [line for line in adapters if line.id == name]
        found = found or [line for line in adapters if line.root == name]
        if len(found) > 1:
            ids = ", ".join(line.id for line in found)
            raise AmbiguousAdapterError(
                f"LoRA adapter model `{name}` is ambiguous; use one of: {ids}"
            )
        return found[0].parent or name if found else name

    def resolve(self, name: str) -> str:
        """Return the id of the model for an inference request's `name`, loaded or unloaded.

        Raises NotAvailableError with mistral.rs's message, for an unknown name and if there is no
        default model.
        """
        if name == DEFAULT_MODEL:
            if self._default is None:
                raise NotAvailableError("engine state lock is poisoned")
            return self._default
        if self.known(name):
            return name
        if not self._loaded:
            raise NotAvailableError("No models are currently loaded.")
        raise NotAvailableError(
            f"Requested model '{name}' is not available. Available models: "
            f"{', '.join(self.loaded)}. Use 'default' to use the default model."
        )
