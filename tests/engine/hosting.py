"""The models of one engine node: the wheel's Runners, their states, and requests through them.

One Runner holds one model and cannot unload it, so unloading drops the Runner and reloading makes
a new one. The states, and the bug that leaves an id reloading for ever, are the real server's.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cortexd.testing.faults import HELD_SECONDS, never
from tests.engine.bodies import RequestRefusedError, body_fault, chat_arguments
from tests.engine.damage import Ballast, DeviceContext
from tests.engine.tiny_model import is_embedding_model

# Before the import, since the engine reads its environment once. One thread an engine: two busy
# ones on the same cores are up to 80 times slower with more. A backtrace makes error texts long.
os.environ.update(RAYON_NUM_THREADS="1", RUST_LOG="error", RUST_BACKTRACE="0", HF_HUB_OFFLINE="1")

import mistralrs

# What the server finds wrong with a request only after dispatch, by how the engine's text begins.
DISPATCH_FAULTS = (
    "Prompt sequence length",
    "Received messages for a model which does not have",
    "Received a request incompatible",
    "Received an empty prompt",
    "Number of choices must be greater",
    "Invalid grammar",
)


# As the engine words what a CUDA driver refuses.
OUT_OF_MEMORY = 'failed to load model: DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")'


class CutError(Exception):
    """The model was unloaded under a running generation."""


class HostedModel:
    """One model directory under one served id, with a Runner while it is loaded.

    `size_mb` is what it takes of the node's pretended memory, in MiB, and `ballast` what it really
    takes beside its weights. While `is_held` returns True no answer goes on behind its first chunk.
    `context` is that of the node's device. No load is over before `load_seconds`, as if a slow disk
    had the weights.
    """

    def __init__(
        self,
        name: str,
        directory: Path,
        size_mb: int = 0,
        is_held: Callable[[], bool] = never,
        *,
        ballast: Ballast | None = None,
        context: DeviceContext | None = None,
        load_seconds: float = 0.0,
    ) -> None:
        self.name = name
        self.size_mb = size_mb
        self.runner: mistralrs.Runner | None = None
        self._directory = directory
        self._is_held = is_held
        self._ballast = ballast or Ballast()
        self._context = context or DeviceContext()
        self._load_seconds = load_seconds
        # Two threads inside one Runner's method at once raise "Already borrowed". Generation itself
        # runs outside: the method returns an iterator at once.
        self._submit = threading.Lock()
        self._cut = threading.Event()

    def load(self) -> None:
        """Block until the model is loaded; whatever the engine raises comes through.

        RuntimeError while the context is poisoned.
        """
        fault = self._context.fault()
        if fault:
            raise RuntimeError(fault)
        read_at = time.monotonic() + self._load_seconds
        directory = str(self._directory)
        which: Any
        if is_embedding_model(self._directory):
            which = mistralrs.Which.Embedding(
                directory, arch=mistralrs.EmbeddingArchitecture.Qwen3Embedding
            )
        else:
            which = mistralrs.Which.Plain(directory, arch=mistralrs.Architecture.Qwen3)
        runner = mistralrs.Runner(which)
        self._ballast.take()
        time.sleep(max(0.0, read_at - time.monotonic()))
        self._cut = threading.Event()
        self.runner = runner

    def unload(self) -> None:
        """Cut running answers and drop the Runner; what still runs in it is thrown away."""
        self._cut.set()
        self.runner = None
        self._ballast.give_back()

    def chunks(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Submit a chat request and give its `chat.completion.chunk` objects one by one.

        Raises RequestRefusedError, from the call for a bad request and while iterating for what the
        engine finds later, and CutError when the model is unloaded meanwhile.
        """
        cut = self._cut
        stream = self._send(chat_arguments(body) | {"stream": True})

        def converted() -> Iterator[dict[str, Any]]:
            try:
                for chunk in stream:
                    if cut.is_set():
                        raise CutError
                    self._check_context()
                    yield self._wire(chunk)
                    self._hold(cut)
            except ValueError as error:
                raise (CutError() if cut.is_set() else refusal(error)) from error

        return converted()

    def choices_together(self, body: dict[str, Any]) -> dict[str, Any]:
        """Answer a request for several choices, which the engine cannot stream, in one call.

        Raises as `chunks` does, only at its end.
        """
        cut = self._cut
        answer = self._wire(self._send(chat_arguments(body)))
        self._check_context()
        self._hold(cut)
        if cut.is_set():
            raise CutError
        return answer

    def _hold(self, cut: threading.Event) -> None:
        while self._is_held() and not cut.wait(HELD_SECONDS):
            pass

    def embed(self, inputs: list[str] | list[list[int]]) -> tuple[list[list[float]], int]:
        """Return a vector for every input, and how many prompt tokens they were.

        Raises as `choices_together` does.
        """
        cut = self._cut
        with self._submit:
            runner = self._loaded_runner()
            self._check_context()
            try:
                vectors = runner.send_embedding_request(mistralrs.EmbeddingRequest(inputs))
            except ValueError as error:
                raise refusal(error) from error
            tokens = [
                runner.tokenize_text(item, True, None) if isinstance(item, str) else item
                for item in inputs
            ]
        if cut.is_set():
            raise CutError
        return vectors, sum(map(len, tokens))

    def _send(self, arguments: dict[str, Any]) -> Any:
        # The Runner is referred to only in here, so that unload drops the last reference.
        with self._submit:
            runner = self._loaded_runner()
            try:
                request = mistralrs.ChatCompletionRequest(model="default", **arguments)
                return runner.send_chat_completion_request(request)
            except (TypeError, OverflowError) as error:
                raise body_fault(str(error)) from error
            except ValueError as error:
                raise refusal(error) from error

    def _check_context(self) -> None:
        fault = self._context.fault()
        if fault:
            raise RequestRefusedError(500, fault)

    def _loaded_runner(self) -> mistralrs.Runner:
        runner = self.runner
        if runner is None:
            raise RequestRefusedError(422, f"Model `{self.name}` vanished at dispatch")
        return runner

    def _wire(self, response: Any) -> dict[str, Any]:
        return {
            "id": response.id,
            "object": response.object,
            "created": response.created,
            "model": self.name,
            "system_fingerprint": response.system_fingerprint,
            "usage": wire(response.usage),
            "choices": [_wire_choice(choice) for choice in response.choices],
        }


class ModelTable:
    """The models of a node by id, with the server's rules for their states and for `default`.

    With `memory_mb` MiB a model whose size no longer fits is refused as CUDA refuses it; None is no
    limit. While `is_held` returns True no reload ends.
    """

    def __init__(
        self,
        models: list[HostedModel],
        memory_mb: int | None = None,
        is_held: Callable[[], bool] = never,
    ) -> None:
        self.memory_mb = memory_mb
        self._models = {model.name: model for model in models}
        self._default = next((model.name for model in models if model.runner), None)
        self._reloading: list[str] = []
        self._claimed_mb = 0
        self._is_held = is_held
        self._lock = threading.Lock()

    @property
    def free_mb(self) -> int:
        """What is left of `memory_mb` by models loaded and loading; 0 without a limit."""
        with self._lock:
            return self._free_mb()

    def _free_mb(self) -> int:
        loaded_mb = sum(model.size_mb for model in self._models.values() if model.runner)
        return max(0, (self.memory_mb or 0) - loaded_mb - self._claimed_mb)

    def label(self, name: object) -> str:
        """Return the name under which metrics count a request that names a model."""
        if isinstance(name, str) and self.status(name)["status"] != "not_found":
            return name
        return "unknown"

    def label_or_default(self, name: object) -> str:
        """Return the same for a route where a request without a name is for the default."""
        if name in (None, "", "default"):
            return self._default or "default"
        return self.label(name)

    def listing(self) -> list[tuple[str, str]]:
        """Return (id, status) pairs in the server's order, a stuck id twice."""
        with self._lock:
            reloading = [(name, "reloading") for name in self._reloading]
            loaded = [(name, "loaded") for name, model in self._models.items() if model.runner]
            unloaded = [
                (name, "unloaded")
                for name, model in self._models.items()
                if not model.runner and name not in self._reloading
            ]
        return reloading + loaded + unloaded

    def status(self, name: str) -> dict[str, str]:
        """Answer POST /v1/models/status."""
        with self._lock:
            if name in self._reloading:
                status = "reloading"
            elif name not in self._models:
                status = "not_found"
            else:
                status = "loaded" if self._models[name].runner else "unloaded"
        return {"model_id": name, "status": status}

    def reload(self, name: str) -> dict[str, str]:
        """Answer POST /v1/models/reload, after the load if there is one to do."""
        with self._lock:
            if name in self._reloading:
                return {"model_id": name, "status": "reloading"}
            self._reloading.append(name)
            model = self._models.get(name)
            if model is None or model.runner:
                # The server's bug: the mark stays, the id is reloading until the node restarts.
                return {"model_id": name, "status": "not_found"}
            fits = self.memory_mb is None or model.size_mb <= self._free_mb()
            claimed_mb = model.size_mb if fits else 0
            self._claimed_mb += claimed_mb
        while self._is_held():
            time.sleep(HELD_SECONDS)
        error = self._load(model) if fits else OUT_OF_MEMORY
        with self._lock:
            self._claimed_mb -= claimed_mb
            self._reloading.remove(name)
        if error:
            return {"model_id": name, "status": "internal_error", "error": error}
        return {"model_id": name, "status": "loaded"}

    def _load(self, model: HostedModel) -> str:
        """Load a model; return what went wrong, "" if nothing did."""
        try:
            model.load()
        except (ValueError, RuntimeError, OSError) as error:
            return f"failed to load model: {error}"
        return ""

    def unload(self, name: str) -> dict[str, str]:
        """Answer POST /v1/models/unload; the default moves to another loaded model, or to none."""
        with self._lock:
            model = self._models.get(name)
            if model is None:
                return {"model_id": name, "status": "not_found"}
            if model.runner:
                model.unload()
                if self._default == name:
                    others = (other.name for other in self._models.values() if other.runner)
                    self._default = next(others, None)
        return {"model_id": name, "status": "unloaded"}

    def for_request(self, name: str, *, unknown_status: int = 500) -> HostedModel:
        """Return the loaded model an inference request names, reloading it if it is unloaded.

        Raises RequestRefusedError for an unknown id, a load under way or failed, a lost default.
        """
        with self._lock:
            if name == "default":
                if self._default is None:
                    raise RequestRefusedError(500, "engine state lock is poisoned")
                name = self._default
            model = self._models.get(name)
            loaded = [other.name for other in self._models.values() if other.runner]
        if model is None:
            available = f"Available models: {', '.join(loaded)}. Use 'default' for the default one."
            hint = available if loaded else "No models are currently loaded."
            message = f"Requested model '{name}' is not available. {hint}"
            raise RequestRefusedError(unknown_status, message)
        if not model.runner:
            outcome = self.reload(name)
            if outcome["status"] == "reloading":
                raise RequestRefusedError(500, f"model `{name}` is being reloaded")
            if outcome["status"] == "internal_error":
                raise RequestRefusedError(500, f"failed to reload model: {outcome['error']}")
        return model


def refusal(error: Exception) -> RequestRefusedError:
    """Return the server's answer to what the engine raised."""
    message = str(error)
    return RequestRefusedError(422 if message.startswith(DISPATCH_FAULTS) else 500, message)


def wire(value: Any) -> Any:
    """Return one of the wheel's objects as JSON values: its public attributes, all the way down."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, (list, bytes)):
        return [wire(item) for item in value]
    return {name: wire(getattr(value, name)) for name in dir(value) if not name.startswith("_")}


def _wire_choice(choice: Any) -> dict[str, Any]:
    part = "delta" if hasattr(choice, "delta") else "message"
    said = getattr(choice, part)
    calls = said.tool_calls and [
        {"index": call.index, "id": call.id, "type": "function", "function": wire(call.function)}
        for call in said.tool_calls
    ]
    fields = {"role": said.role, "content": said.content, "tool_calls": calls}
    if said.reasoning_content is not None:
        fields["reasoning_content"] = said.reasoning_content
    return {
        "index": choice.index,
        "finish_reason": choice.finish_reason,
        "logprobs": wire(choice.logprobs),
        part: fields,
    }
