"""Conversations before two real engines with the same model: `cached_tokens` of their answers."""

from __future__ import annotations

from pathlib import Path

from tests.engine.processes import engine_node
from tests.live.affinity.agents import Lengths, Turn, read_again, talk_in_turn
from tests.live.daemons import running_daemon

AGENTS = 3
"""An odd number: without affinity the copies take turns, so each agent comes to the other one."""

TURNS = 5
LENGTHS = Lengths(system=60, turn=110)
"""A token is a character here, and prompt and answer together have at most 8,192."""

MOST_READ_AGAIN = 0.1


def turns_of(folder: Path, models: dict[str, Path], *, affinity: bool) -> list[Turn]:
    """Return the turns of agents that talk in turn before two fresh engines."""
    folder.mkdir()
    extra = f"[scheduling]\naffinity = {str(affinity).lower()}"
    with engine_node(models) as ada, engine_node(models) as bob:
        nodes = {"ada": ada.base_url, "bob": bob.base_url}
        with running_daemon(folder, nodes, extra=extra) as daemon:
            model = ada.chat_models[0]
            return talk_in_turn(daemon.base_url, model, AGENTS, TURNS, LENGTHS)


def test_a_conversation_finds_its_prefix_in_the_engine_that_has_read_it(
    tmp_path: Path, tiny_models: dict[str, Path]
) -> None:
    """Without affinity a second turn finds only what all begin with; with it nearly all is found.

    The engines of one run know nothing of the other run's prompts.
    """
    models = {"tiny/alpha": tiny_models["tiny/alpha"]}
    without = turns_of(tmp_path / "off", models, affinity=False)
    with_it = turns_of(tmp_path / "on", models, affinity=True)

    second = [turn for turn in without if turn.number == 1]
    assert all(turn.read_again > turn.before / 3 for turn in second), second
    assert all(turn.cached >= 0.9 * turn.before for turn in with_it if turn.number), with_it
    assert read_again(with_it) <= MOST_READ_AGAIN * read_again(without)
    assert {"session"} == {turn.affinity for turn in with_it if turn.number}
    assert {"ada", "bob"} == {turn.node for turn in with_it}
