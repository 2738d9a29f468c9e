"""The house of docs/architecture.md: imports go to a lower floor or the same, never up."""

import ast
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parent.parent / "cortexd"
FLOORS = [
    "addresses errors settings config credentials paths",
    "states demand footprints nodes memory fleet sse catalogue dialects summaries affinity "
    "profiles",
    "routing binding eviction placement repair waiting swaps decisions events refusals wishes "
    "allocator scheduler control_answers ctl_output",
    "store connections upstream downstream relay attempt queueing http_server dispatcher recorder "
    "fleet_metrics accounting metrics logs systemd services commands gateway_control ctl_client "
    "verifying kept_state token_counts headers store_file answers control_socket",
    "gateway poller lifecycle control ctl_commands",
    "tap demo ctl",
]
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names.split()}
TWISTED_LINE, SERVICES = 3, 4
ABOVE_THE_LINE = {"twisted", "treq", "klein", "zope", "structlog", "prometheus_client"}
ENTRY_POINTS = {"tap.py", "ctl.py", "testing/__main__.py"}


def room(path: Path) -> str:
    """Return the name by which a module is on its floor: a package is one room."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted name of everything a module imports, inside functions too."""
    for statement in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            assert not statement.level, f"{path}: imports are absolute here"
            yield from (f"{statement.module}.{alias.name}" for alias in statement.names)


def own_rooms(path: Path) -> set[str]:
    """Return the rooms of ours that a module enters, but for its own."""
    names = [name.split(".") for name in imports(path)]
    return {name[1] for name in names if name[0] == "cortexd" and len(name) > 1} - {room(path)}


MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")
HOUSE = [path for path in MODULES if room(path) != "testing"]


class LayerTests(SynchronousTestCase):
    def test_every_module_has_its_floor(self) -> None:
        """A new module must be put on a floor, here and in docs/architecture.md."""
        assert set() == {room(path) for path in HOUSE} - set(FLOOR)

    def test_every_module_is_on_the_page(self) -> None:
        """docs/architecture.md names each module of the house."""
        page = (ROOT.parent / "docs/architecture.md").read_text(encoding="utf-8")
        names = {path.stem for path in HOUSE if path.stem != "__init__"}

        assert set() == {name for name in names if f"`{name}`" not in page}

    def test_imports_go_down(self) -> None:
        """No module imports one of a higher floor, and services do not import each other."""
        for path in HOUSE:
            floor = FLOOR[room(path)]
            for entered in own_rooms(path) & set(FLOOR):
                assert FLOOR[entered] <= floor, f"{path.name} imports {entered}"
                assert floor != SERVICES or FLOOR[entered] < SERVICES, f"{path.name}: {entered}"

    def test_no_twisted_below_the_line(self) -> None:
        """What decides and translates knows nothing of Twisted, logs or metrics."""
        for path in HOUSE:
            if FLOOR[room(path)] < TWISTED_LINE:
                found = {name.split(".")[0] for name in imports(path)} & ABOVE_THE_LINE
                assert set() == found, path.name

    def test_simulation_is_apart(self) -> None:
        """Only the demo uses the simulated node, which itself uses nothing of the daemon."""
        users = {room(path) for path in HOUSE if "testing" in own_rooms(path)}
        used = {entered for path in MODULES if path not in HOUSE for entered in own_rooms(path)}

        assert ({"demo"}, set()) == (users, used)

    def test_only_entry_points_import_the_reactor(self) -> None:
        """The reactor is passed in everywhere else, so that tests can pass another."""
        users = {
            path.relative_to(ROOT).as_posix()
            for path in MODULES
            if {"twisted.internet.reactor", "reactor"} & set(imports(path))
        }
        assert users <= ENTRY_POINTS
