"""What a client has to be played: its packages, and its scenes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from e2e.installing.kit import Installed, Kit
from e2e.real_server import RealTalk
from e2e.stage import NO_SILENCE, Silence, Stage

Play = Callable[[Stage, Installed], str]


@dataclass(frozen=True)
class Scene:
    """One test of a client; `play` returns a summary of what it saw, or raises CheckFailed.

    `node` has further lines of the node's table in the configuration. Its model's chat template
    `is_strict`, or it has none. With `every_template` the node has a model for each chat template
    of tests/templates. With `has_keys` the daemon requires a key. `asks_the_world` says that
    the client asks servers of its vendor whatever its settings, and goes on when it is refused.
    `real` is the conversation before a real server.
    """

    name: str
    play: Play
    silence: Silence = NO_SILENCE
    messages_only: bool = False
    node: str = ""
    is_strict: bool = True
    every_template: bool = False
    is_long: bool = False
    has_keys: bool = False
    asks_the_world: bool = False
    real: RealTalk | None = None


@dataclass(frozen=True)
class Client:
    """A client: the name by which the command line chooses it, its packages, and its scenes.

    It plays the scenes of `waiting` together with all other clients, while the model loads.
    """

    name: str
    kit: Kit
    scenes: tuple[Scene, ...]
    waiting: tuple[Scene, ...]
