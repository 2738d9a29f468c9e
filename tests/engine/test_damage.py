"""What wears out a node's process: memory that unloads leave behind, and a poisoned context."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.engine.contract import Caller, wait_until
from tests.engine.damage import ILLEGAL_ADDRESS, MEBIBYTE, Ballast, DeviceContext
from tests.engine.processes import boots, engine_node, write_tiny_models

ALPHA = "tiny/alpha"
BETA = "tiny/beta"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write the tiny models."""
    return write_tiny_models(tmp_path_factory.mktemp("models"))


def resident_mb(pid: int) -> int:
    """Return the memory that a process really takes, in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // MEBIBYTE


def test_ballast_is_real_memory_and_a_part_of_it_stays() -> None:
    """It is resident while it is taken, and what an unload leaves behind adds up."""
    before = resident_mb(os.getpid())
    ballast = Ballast(64, kept_mb=24)
    for unloads in (1, 2):
        ballast.take()
        assert resident_mb(os.getpid()) - before >= 60 + 24 * (unloads - 1)
        ballast.give_back()
        left = resident_mb(os.getpid()) - before
        assert 20 * unloads <= left <= 60


def test_a_context_is_poisoned_once_and_for_the_life_of_its_process(tmp_path: Path) -> None:
    """The file is taken away, all work fails from then on, and another process works."""
    poison = tmp_path / "poison"
    context = DeviceContext(poison)
    assert "" == context.fault()
    poison.touch()
    assert [ILLEGAL_ADDRESS] * 2 == [context.fault(), context.fault()]
    assert not poison.exists()
    assert "" == DeviceContext(poison).fault()


def test_a_poisoned_node_fails_all_work(models: dict[str, Path]) -> None:
    """Chats of every model fail, streamed or whole, and so do loads; the rest goes on."""
    with engine_node(models) as node, Caller(node) as caller:
        (node.hold_folder / "poison").touch()
        answer = caller.chat()
        assert (500, {"message": ILLEGAL_ADDRESS}) == (answer.status_code, answer.json())
        stream = caller.stream(caller.chat_body(model=BETA))
        assert [ILLEGAL_ADDRESS] == [chunk["error"]["message"] for chunk in stream.chunks]
        assert "unloaded" == caller.operate("unload", ALPHA)
        outcome = caller.outcome("reload", ALPHA)
        assert ("internal_error", True) == (outcome["status"], ILLEGAL_ADDRESS in outcome["error"])
        assert ["loaded"] == caller.listed(BETA)


def test_an_unload_leaves_memory_of_the_process_behind(models: dict[str, Path]) -> None:
    """What a model weighs is resident while it is loaded, and what is kept stays after."""
    with engine_node(models, weights_mb={ALPHA: 80}, keep_mb=40) as node, Caller(node) as caller:
        pid = boots(node.hold_folder)[-1].pid
        loaded = resident_mb(pid)
        caller.operate("unload", ALPHA)
        assert wait_until(lambda: 30 <= loaded - resident_mb(pid) <= 50)
        caller.operate("reload", ALPHA)
        assert resident_mb(pid) >= loaded + 30


def test_boots_are_noted(models: dict[str, Path]) -> None:
    """The file of boots has the beginning and the listening of each process."""
    with engine_node(models) as node:
        (boot,) = boots(node.hold_folder)
    assert 0 < boot.began_at <= boot.listened_at
