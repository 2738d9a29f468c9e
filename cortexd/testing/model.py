"""The models of one simulated node and the memory they take: plain state, `now` passed in.

A process knows each configured model as loaded or unloaded, and beside that keeps a set of ids
being reloaded. That set is where upstream's worst trap lies: `reload` adds the id *before* it looks
whether the model is unloaded, and the early refusal never takes it out again, so that the reload of
a loaded or unknown id leaves the id `reloading` until the process restarts.

Memory follows its own time: a load claims its model's size when it starts, and an unload gives it
back later than it answers, less what it leaks.
"""

import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["chat", "embedding", "image", "speech"]
Status = Literal[
    "loaded", "unloaded", "reloading", "not_found", "no_loader_config", "internal_error"
]

DEFAULT_MODEL = "default"
# Before this version several models from one file had no loader configuration each: an unload
# lost the model and kept its memory.
FIRST_WITH_LOADER_CONFIGURATIONS = (0, 9, 1)


@dataclass(frozen=True, kw_only=True)
class SimulatedModel:
    """A model as the node's operator configured it.

    `loaded` is its state when the process starts, unless the node says otherwise; `load_seconds`
    what a load takes, `thinks` whether its answers begin with reasoning, `context_tokens` the limit
    on prompt plus answer. Its tokenizer makes `tokens_per_word` tokens of each word of a prompt.
    """

    id: str
    size_mb: int = 1000
    load_seconds: float = 0.0
    kind: Kind = "chat"
    loaded: bool = True
    thinks: bool = False
    context_tokens: int = 4096
    tokens_per_word: int = 1


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One line of the model list; only the pseudo-model `default` has no status."""

    id: str
    status: Status | None


class NotAvailableError(Exception):
    """An inference request cannot be given to a model; the text is the node's own."""


@dataclass(kw_only=True)
class _Lingering:
    """Memory of an unloaded model that the node has not given back yet."""

    until: float
    size_mb: int


class ModelStore:
    """Which models a node has, in which state, and how much memory they take.

    `starts_loaded` has the ids that start loaded, None where each model's own word counts.
    `process_number` counts starts of the process: it decides the order in which models are listed,
    which upstream leaves to a hash map.
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
        # The first configured model is the default; a node that starts it cold has moved it on.
        self._default: str | None = next(
            (model.id for model in models if model.id in self._loaded), None
        )

    @property
    def loaded(self) -> tuple[str, ...]:
        """The ids of the loaded models, sorted."""
        return tuple(sorted(self._loaded))

    @property
    def loading(self) -> tuple[str, ...]:
        """The ids of the models whose load is under way, sorted; none that is merely stuck."""
        return tuple(sorted(self._loading))

    @property
    def default(self) -> str | None:
        """The model that `default` stands for; None once the last loaded one was unloaded."""
        return self._default

    def configured(self, model_id: str) -> SimulatedModel:
        """Give a configured model's description; a KeyError if there is none of that id."""
        return self._models[model_id]

    def resident_mb(self, now: float) -> int:
        """Give the MiB taken at `now`: loaded, loading, not yet given back, and leaked."""
        self._lingering = [memory for memory in self._lingering if memory.until > now]
        held = self._loaded | self._claimed
        return (
            sum(self._models[model_id].size_mb for model_id in held)
            + sum(memory.size_mb for memory in self._lingering)
            + self._lost_mb
        )

    def listed(self) -> list[Listed]:
        """Give the model list: `default`, then reloading, loaded and unloaded ones.

        A stuck id that is loaded appears twice. The order within a group holds for the life of
        the process and means nothing.
        """
        groups: list[tuple[Status, set[str]]] = [
            ("reloading", self._reloading),
            ("loaded", self._loaded),
            ("unloaded", self._unloaded - self._reloading),
        ]
        return [Listed(id=DEFAULT_MODEL, status=None)] + [
            Listed(id=model_id, status=status)
            for status, ids in groups
            for model_id in sorted(ids, key=self._hash_order)
        ]

    def _hash_order(self, model_id: str) -> int:
        return zlib.crc32(f"{self._process_number}:{model_id}".encode())

    def status(self, model_id: str) -> Status:
        """Give the state that the status route reports."""
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
        """Take a model out of use and give the state the unload route reports.

        `leaked_mb` of its memory are counted for ever; the rest goes in `free_steps` equal pieces,
        the last of them `free_after` seconds from `now`. An unloaded model, one being reloaded
        included, answers `unloaded` and stays as it is.
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
        """Start a reload: None if a load is now under way, else the state that refuses it.

        Mind the trap described above: a `not_found` leaves the id reloading for ever.
        """
        if model_id in self._reloading:
            return "reloading"
        self._reloading.add(model_id)
        if model_id not in self._unloaded:
            return "not_found"
        self._loading.add(model_id)
        return None

    def claim_memory(self, model_id: str, now: float, *, may_overfill: bool) -> bool:
        """Take the memory of a load that `begin_load` started; False if it is not there to take.

        With `may_overfill` it is taken whatever is left.
        """
        if not may_overfill and self._models[model_id].size_mb > self.free_mb(now):
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
        """Give the MiB free at `now`, never below 0."""
        return max(0, self._memory_mb - self.resident_mb(now))

    def known(self, name: str) -> bool:
        """Tell whether an inference request may name this: `default`, a loaded or unloaded id."""
        return name == DEFAULT_MODEL or name in self._loaded or name in self._unloaded

    def resolve(self, name: str) -> str:
        """Give the real id that an inference request's `name` stands for, loaded or unloaded.

        A NotAvailableError carries the node's words for an unknown name and for a default that
        is gone.
        """
        if name == DEFAULT_MODEL:
            if self._default is None:
                raise NotAvailableError("engine state lock is poisoned")
            return self._default
        if self.known(name):
            return name
        if not self._loaded:
            raise NotAvailableError(
                f"Requested model '{name}' is not available. No models are currently loaded."
            )
        raise NotAvailableError(
            f"Requested model '{name}' is not available. Available models: "
            f"{', '.join(self.loaded)}. Use 'default' to use the default model."
        )
