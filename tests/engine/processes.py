"""Nodes in processes of their own: found by the address they print, ended by their handle."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple, NoReturn

from tests.engine.tiny_model import write_chat_model, write_embedding_model

REPOSITORY = Path(__file__).parents[2]
# Starting with three tiny models takes under a second; a busy machine may need ten.
START_SECONDS = 30.0
STOP_SECONDS = 5.0
EMBEDDING = "tiny/embedding"


@dataclass(frozen=True)
class RunningNode:
    """A node that answers: its base URL (no slash at the end), and the models a test may use.

    What it does can be held up through files in ``hold_folder``, so that a test that acts in the
    middle of it does so however slow the machine is.
    """

    base_url: str
    chat_models: tuple[str, ...]
    embedding_model: str
    hold_folder: Path

    def loads_held(self) -> AbstractContextManager[Callable[[], None]]:
        """Let no load end until the block is left, or what it gives is called."""
        return held(self.hold_folder / "loads")

    def answers_held(self) -> AbstractContextManager[Callable[[], None]]:
        """Let no answer go on behind its first token until then."""
        return held(self.hold_folder / "answers")


class Boot(NamedTuple):
    """A process of an engine node: times are in unix seconds, `listened_at` 0 until it listens."""

    pid: int
    began_at: float
    listened_at: float


def boots(hold_folder: Path) -> list[Boot]:
    """Return the processes that an engine node has had, from its file of boots."""
    path = hold_folder / "boots"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    found: dict[int, Boot] = {}
    for line in map(json.loads, text.rpartition("\n")[0].splitlines()):
        pid, at = line["pid"], line["at"]
        if line["event"] == "began":
            found[pid] = Boot(pid, at, 0.0)
        else:
            found[pid] = found[pid]._replace(listened_at=at)
    return list(found.values())


@contextmanager
def held(path: Path) -> Iterator[Callable[[], None]]:
    """Keep a file until the block is left; give what removes it before."""

    def let_go() -> None:
        path.unlink(missing_ok=True)

    path.touch()
    try:
        yield let_go
    finally:
        let_go()


def write_tiny_models(directory: Path) -> dict[str, Path]:
    """Write two chat models and an embedding model under `directory`; return directories by id."""
    return {
        "tiny/alpha": write_chat_model(directory / "alpha", seed=1),
        "tiny/beta": write_chat_model(directory / "beta", seed=2),
        EMBEDDING: write_embedding_model(directory / "embedding", seed=3),
    }


@contextmanager
def engine_node(
    models: Mapping[str, Path],
    *,
    memory_mb: int | None = None,
    sizes_mb: Mapping[str, int] | None = None,
    cold: Collection[str] = (),
    weights_mb: Mapping[str, int] | None = None,
    keep_mb: int = 0,
    disk_mb: float = 0.0,
) -> Iterator[RunningNode]:
    """Run an engine node with the models of `write_tiny_models` until the block is left.

    Arguments as of `engine_arguments`. Raises RuntimeError if the node does not start.
    """
    arguments = engine_arguments(
        models,
        memory_mb=memory_mb,
        sizes_mb=sizes_mb,
        cold=cold,
        weights_mb=weights_mb,
        keep_mb=keep_mb,
        disk_mb=disk_mb,
    )
    with _running_node("tests.engine.node", *arguments) as (base_url, hold_folder):
        chat_models = tuple(name for name in models if name != EMBEDDING)
        yield RunningNode(base_url, chat_models, EMBEDDING, hold_folder)


def engine_arguments(
    models: Mapping[str, Path],
    *,
    memory_mb: int | None = None,
    sizes_mb: Mapping[str, int] | None = None,
    cold: Collection[str] = (),
    weights_mb: Mapping[str, int] | None = None,
    keep_mb: int = 0,
    disk_mb: float = 0.0,
) -> list[str]:
    """Return arguments of an engine node with the models of `write_tiny_models`.

    With `memory_mb` the node pretends to a GPU of so many MiB, of which a model takes its
    `sizes_mb` (0 without one), and refuses what does not fit. The models in `cold` start unloaded.
    A model really takes `weights_mb` beside what its engine takes, of which each unload leaves
    `keep_mb` behind. With `disk_mb` its load takes at least as long as a disk that reads so many
    MiB of its `sizes_mb` in a second.
    """
    arguments = [f"--model={name}={directory}" for name, directory in models.items()]
    arguments += [f"--cold={name}" for name in cold]
    arguments += [f"--size={name}={size_mb}" for name, size_mb in (sizes_mb or {}).items()]
    arguments += [f"--weight={name}={size_mb}" for name, size_mb in (weights_mb or {}).items()]
    arguments += [f"--keep-mb={keep_mb}"] if keep_mb else []
    arguments += [f"--disk-mb={disk_mb}"] if disk_mb else []
    arguments += [] if memory_mb is None else [f"--memory-mb={memory_mb}"]
    return arguments


@contextmanager
def simulated_node(
    *,
    fast: bool,
    memory_mb: int = 24_576,
    cold: Collection[str] = (),
    messages_only: bool = False,
    version: str = "",
    prompt_token_ms: float = 0.0,
) -> Iterator[RunningNode]:
    """Run a simulated node until the block is left; `fast` makes it answer without any waiting.

    Otherwise it makes 50 tokens a second, and its first chat model takes 3 seconds to load, the
    second none. The chat models take 6144 MiB of its `memory_mb` each, the embedding model 1024;
    those in `cold` start unloaded. With `messages_only` it serves the Messages API and nothing
    else; otherwise it is like a server of this `version`, by default 0.9.2. A token
    of a prompt that is not cached takes it `prompt_token_ms`. Raises RuntimeError if the node does
    not start.
    """
    arguments = [f"--memory-mb={memory_mb}", *[f"--cold={name}" for name in cold]]
    arguments += ["--fast"] if fast else []
    arguments += [f"--version={version}"] if version else []
    arguments += [f"--prompt-token-ms={prompt_token_ms}"] if prompt_token_ms else []
    module = "tests.doubles.messages_api" if messages_only else "cortexd.testing"
    with _running_node(module, *arguments) as (base_url, hold_folder):
        yield RunningNode(base_url, ("acme/chat", "acme/thinker"), "acme/embed", hold_folder)


@contextmanager
def _running_node(module: str, *arguments: str) -> Iterator[tuple[str, Path]]:
    with (
        tempfile.TemporaryDirectory() as folder,
        running_module(module, *arguments, f"--hold-folder={folder}") as base_url,
    ):
        yield base_url, Path(folder)


@contextmanager
def running_module(module: str, *arguments: str) -> Iterator[str]:
    """Run `python -m module` until the block is left; give the first line it printed.

    Raises RuntimeError, with what the process wrote to stderr, if it prints none within 30 seconds.
    """
    with (
        tempfile.TemporaryFile("w+") as faults,
        subprocess.Popen(  # noqa: S603 - this interpreter and modules of this repository only
            [sys.executable, "-m", module, *arguments],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=faults,
            text=True,
        ) as process,
    ):
        try:
            yield _first_line(process) or _give_up(module, process, faults)
        finally:
            _end(process)


def _first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], START_SECONDS)
    return process.stdout.readline().strip() if ready else ""


def _give_up(module: str, process: subprocess.Popen[str], faults: IO[str]) -> NoReturn:
    _end(process)
    faults.seek(0)
    raise RuntimeError(
        f"python -m {module} printed no address within {START_SECONDS:.0f} s "
        f"(exit status {process.returncode}); it wrote:\n{faults.read()}"
    )


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
