"""The house of docs/architecture.md: imports go down, room by room, and never in a circle."""

import ast
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parent.parent / "cortexd"
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "docs/*.md", "contrib/*/README.md")

ROOMS = [
    # From the bottom up: a room imports those above it in this list, and no other.
    "text",
    "values",
    "errors",
    "sse",
    "access",
    "fleet",
    "dialects.wire",
    "dialects.prefixes",
    "dialects.hygiene",
    "dialects.fitting",
    "dialects.nodes",
    "dialects.probing",
    "dialects.messages_to_chat",
    "dialects.messages_passed",
    "dialects.openai",
    "dialects.chat_to_messages",
    "dialects.responses_to_chat",
    "dialects.routes",
    "engines",
    "config",
    "admission",
    "scheduling",
    "TWISTED LINE",
    "logs",
    "headers",
    "slices",
    "telemetry",
    "dispatcher",
    "store",
    "metering",
    "bulk",
    "link",
    "upstream",
    "agents",
    "downstream",
    "gateway",
    "control",
    "ctl",
    "terms",
    "parts",
    "making",
    "assembly",
    "reassembly",
    "service",
    "agent",
    "demo",
    "tap",
]
PURE_ABOVE_THE_LINE = {
    "agents/incoming.py",
    "agents/newcomers.py",
    "bulk/child.py",
    "bulk/frames.py",
    "bulk/jobs.py",
    "control/answers.py",
    "control/repair_answers.py",
    "control/summaries.py",
    "ctl/abilities.py",
    "ctl/fleet_output.py",
    "ctl/output.py",
    "downstream/body_memory.py",
    "gateway/binding.py",
    "gateway/fatal.py",
    "gateway/patience.py",
    "gateway/profiles.py",
    "gateway/retries.py",
    "gateway/waits/loads.py",
    "gateway/waits/wanted.py",
    "service/agent_notices.py",
    "link/admission.py",
    "link/certificates.py",
    "link/proofs.py",
}
EFFECTS = {"twisted", "treq", "klein", "zope", "structlog", "prometheus_client", "time"}
PURE_PARTS = {"prometheus_client.parser"}
"""Modules of those packages that read text and do nothing else."""

ENGINE_WORDS = ("dialects.nodes.messages", "dialects.nodes.mistralrs")
"""The words of one engine each, in modules whose names begin so."""

ENTRY_POINTS = {"tap.py", "agent/tap.py", "ctl/main.py", "testing/__main__.py", "service/guard.py"}
MOST_MODULES = 20
MOST_LINES = 500


def room(name: str) -> str:
    """Return the room of a dotted name below ``cortexd``; each dialect is a room of its own."""
    first, _, rest = name.partition(".")
    return f"{first}.{rest.partition('.')[0]}" if first == "dialects" else first


def module(path: Path) -> str:
    """Return the dotted name of a module below ``cortexd``."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted name of everything a module imports, inside functions too."""
    for statement in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            assert not statement.level, f"{path}: imports are absolute here"
            yield from (f"{statement.module}.{alias.name}" for alias in statement.names)


def own_imports(path: Path) -> Iterator[str]:
    """Yield the modules of ours that a module imports, by their names below ``cortexd``."""
    for name in imports(path):
        if name.startswith("cortexd."):
            found = name.removeprefix("cortexd.")
            while found and found not in NAMES:
                found = found.rpartition(".")[0]
            if found:
                yield found


MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")
NAMES = {module(path): path for path in MODULES}
CODE = [path for path in MODULES if path.name != "__init__.py"]
HOUSE = [path for path in CODE if not module(path).startswith("testing")]


class LayerTests(SynchronousTestCase):
    def test_every_room_has_its_place(self) -> None:
        """A new room is entered in the list above and in docs/architecture.md."""
        rooms = {room(module(path)) for path in HOUSE}
        page = (ROOT.parent / "docs/architecture.md").read_text(encoding="utf-8")

        assert rooms == {name for name in ROOMS if name != "TWISTED LINE"}
        assert [] == [name for name in rooms if f"`{name.replace('.', '/')}" not in page]

    def test_every_module_is_on_the_page(self) -> None:
        """docs/architecture.md names each module of the house."""
        page = (ROOT.parent / "docs/architecture.md").read_text(encoding="utf-8")
        names = {path.stem for path in HOUSE}

        assert set() == {name for name in names if f"`{name}`" not in page}

    def test_imports_go_down(self) -> None:
        """No room imports one that stands higher, so that there is no circle of rooms."""
        for path in HOUSE:
            own = room(module(path))
            for name in own_imports(path):
                entered = room(name)
                if entered not in (own, "testing"):
                    floors = ROOMS.index(entered), ROOMS.index(own)
                    assert floors[0] < floors[1], f"{module(path)} imports {name}"

    def test_no_circle_of_modules(self) -> None:
        """Modules of one room import each other in one direction only."""
        waiting = {module(path): set(own_imports(path)) - {module(path)} for path in MODULES}
        while free := {name for name, needs in waiting.items() if not needs & waiting.keys()}:
            for name in free:
                del waiting[name]

        assert {} == waiting

    def test_no_effects_below_the_line(self) -> None:
        """What decides and translates knows nothing of Twisted, logs, metrics or clocks."""
        line = ROOMS.index("TWISTED LINE")
        pure = {path for path in HOUSE if ROOMS.index(room(module(path))) < line}
        pure |= {ROOT / name for name in PURE_ABOVE_THE_LINE}
        for path in pure:
            effects = (name for name in imports(path) if name.rpartition(".")[0] not in PURE_PARTS)
            found = {name.split(".")[0] for name in effects} & EFFECTS
            assert set() == found, path.name

    def test_no_other_module_asks_which_engine_it_has(self) -> None:
        """An engine's words are for its own module and the dialects; the rest asks its abilities.

        The configuration chooses one from the registry, by name, and nothing else does.
        """
        engines = {name for name in NAMES if room(name) == "engines"}
        kinds = engines - {"engines", "engines.engine", "engines.registry"}
        words = {name for name in NAMES if name.startswith(ENGINE_WORDS)}
        for name, path in NAMES.items():
            used = set(own_imports(path))
            if name not in kinds and not room(name).startswith("dialects."):
                assert set() == used & words, name
            if name != "engines.registry":
                assert set() == used & kinds, name
            if room(name) != "config":
                assert "engines.registry" not in used, name

        assert kinds
        assert words

    def test_simulation_is_apart(self) -> None:
        """Only the demo uses the simulated node, which itself uses nothing of the daemon."""
        entered = {path: {room(name) for name in own_imports(path)} for path in MODULES}
        users = {module(path) for path in HOUSE if "testing" in entered[path]}
        used = {name for path in CODE if path not in HOUSE for name in entered[path]}

        assert ({"demo"}, {"testing"}) == (users, used)

    def test_nothing_of_the_tests_is_imported(self) -> None:
        """The wheel has neither the tests nor the package with which they render templates."""
        names = {name.partition(".")[0] for path in MODULES for name in imports(path)}

        assert set() == {"tests", "minijinja"} & names

    def test_only_entry_points_read_the_clock(self) -> None:
        """The time of day is passed in everywhere else, so that tests can pass another."""
        users = {
            path.relative_to(ROOT).as_posix()
            for path in MODULES
            if "time" in {name.partition(".")[0] for name in imports(path)}
        }
        assert users <= ENTRY_POINTS

    def test_only_entry_points_import_the_reactor(self) -> None:
        """The reactor is passed in everywhere else, so that tests can pass another."""
        users = {
            path.relative_to(ROOT).as_posix()
            for path in MODULES
            if {"twisted.internet.reactor", "reactor"} & set(imports(path))
        }
        assert users <= ENTRY_POINTS


class SizeTests(SynchronousTestCase):
    def test_no_flat_folder(self) -> None:
        """A folder holds so few modules that a reader sees them at one look."""
        for top in ("cortexd", "tests", "bench", "e2e"):
            for folder in {path.parent for path in (ROOT.parent / top).rglob("*.py")}:
                modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
                assert len(modules) <= MOST_MODULES, folder

    def test_no_long_file(self) -> None:
        """A file that has grown long is two."""
        for top in ("cortexd", "tests", "bench", "e2e"):
            for path in (ROOT.parent / top).rglob("*.py"):
                length = path.read_text(encoding="utf-8").count("\n")
                assert length <= MOST_LINES, f"{path}: {length} lines"
