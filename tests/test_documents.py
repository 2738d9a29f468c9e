"""Whether the documents name only paths, modules, links and commands that exist."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.test_layers import module

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", "docs/*.md", "contrib/**/README.md")
DOCUMENTS = [path for pattern in PAGES for path in sorted(ROOT.glob(pattern))]
ABOUT_CODE = [ROOT / "docs/architecture.md", ROOT / "docs/extending.md"]

FOLDERS = ("cortexd", "twisted", "etc", "contrib", "tests", "bench", "docs", "e2e")
PATH = re.compile(rf"(?<![\w./~<>$-])(?:{'|'.join(FOLDERS)})/[\w./*<>-]*")
LONE_FILE = re.compile(r"(?<![\w./~*<>-])[\w-]+\.(?:py|md)\b")
MODULE = re.compile(r"(?<![\w./])(?:cortexd|tests|bench|e2e)(?:\.[a-z_]\w*)+")
TARGET = re.compile(r"^\$ make ([a-z][a-z-]*)|^make ([a-z][a-z-]*)$", re.MULTILINE)
NAME = re.compile(r"[A-Za-z_]\w*")
WORDS = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*(?:\(\))?")
ROOM_AND_MODULE = re.compile(r"[a-z_]+(?:/[a-z_]+)+")
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\|([^|\n]*)\|([^|\n]*)\|", re.MULTILINE)


def code(text: str) -> list[str]:
    """Return the code blocks and code spans of a document, without their fences and backticks."""
    return [
        found.partition("\n")[2].rpartition("\n")[0] if found.startswith("```") else found[1:-1]
        for found in CODE.findall(text)
    ]


def spans(text: str) -> list[str]:
    """Return the code spans alone."""
    return [found[1:-1] for found in CODE.findall(text) if not found.startswith("```")]


def missing_paths(text: str) -> list[str]:
    """Return the repository paths in code that nothing in the repository matches.

    ``<room>`` in a path stands for any name; ``*`` does as in a shell.
    """
    paths = [path.rstrip(".") for each in code(text) for path in PATH.findall(each)]
    return [path for path in paths if not any(ROOT.glob(re.sub(r"<\w+>", "*", path)))]


def missing_files(text: str) -> list[str]:
    """Return the names of Python files and documents without a folder that no file has."""
    names = [name for each in spans(text) for name in LONE_FILE.findall(each)]
    return [name for name in names if name not in file_names()]


def missing_modules(text: str) -> list[str]:
    """Return the dotted names in code that lead to no module and to no name inside one."""
    names = [name for each in code(text) for name in MODULE.findall(each)]
    return [name for name in names if not leads_somewhere(name)]


def leads_somewhere(name: str) -> bool:
    """Say whether a dotted name is a package, a module, a name that a module has, or a unit."""
    path, _, last = name.replace(".", "/").rpartition("/")
    if (ROOT / path / last).is_dir() or (ROOT / path / f"{last}.py").exists():
        return True
    if (ROOT / "contrib" / "systemd" / name).exists():
        return True  # a unit, whose name looks like a module's
    owner = ROOT / f"{path}.py"
    return owner.exists() and last in NAME.findall(owner.read_text("utf-8"))


def missing_targets(text: str) -> list[str]:
    """Return the targets that code gives to make and the Makefile does not have."""
    known = re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    asked = [match[1] or match[2] for each in code(text) for match in TARGET.finditer(each)]
    return [target for target in asked if target not in known]


def missing_names(text: str) -> list[str]:
    """Return the names in code spans that the source of the daemon, or its sample file, has not."""
    found = []
    for each in spans(text):
        if ROOM_AND_MODULE.fullmatch(each):
            if not each.startswith(tuple(f"{top}/" for top in FOLDERS)) and not is_room(each):
                found.append(each)
        elif WORDS.fullmatch(each) and not LONE_FILE.fullmatch(each):
            found += [each for name in NAME.findall(each) if name not in names_in_source()]
    return found


def is_room(path: str) -> bool:
    """Say whether a path, perhaps without its first folders, is a package or module of ours."""
    wanted = path.replace("/", ".")
    return any(f".{name}".endswith(f".{wanted}") for name in module_names())


def missing_rows(text: str) -> Iterator[str]:
    """Yield the modules that a table of rooms has and the room has not."""
    room = ""
    for first, second in ROW.findall(text):
        rooms, modules = spans(first), spans(second)
        room = rooms[0].rstrip("/") if rooms else room
        for name in modules if rooms or not first.strip() else ():
            if not name.startswith("dialects/") and not is_room(f"{room}/{name}"):
                yield f"{room}/{name}"


def broken_links(text: str, folder: Path) -> list[str]:
    """Return the links of a document in ``folder`` that lead to no file, or to no heading of it."""
    found = []
    for link in LINK.findall(CODE.sub("", text)):
        path, _, heading = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = folder / path if path else None
        if target is not None and not target.exists():
            found.append(link)
        elif heading:
            page = text if target is None else target.read_text("utf-8")
            if heading not in map(anchor, re.findall(r"^#+ (.*)$", page, re.MULTILINE)):
                found.append(link)
    return found


def anchor(heading: str) -> str:
    """Return the anchor that code hosts give a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@cache
def file_names() -> frozenset[str]:
    """Return the name of each file of the repository."""
    inside = (path for top in FOLDERS for path in (ROOT / top).rglob("*"))
    return frozenset(path.name for path in (*inside, *ROOT.iterdir()))


@cache
def module_names() -> frozenset[str]:
    """Return the dotted names of our packages and modules below ``cortexd``."""
    return frozenset(module(path) for path in (ROOT / "cortexd").rglob("*.py"))


@cache
def names_in_source() -> frozenset[str]:
    """Return each word of the daemon's source and of the sample configuration."""
    paths = [*(ROOT / "cortexd").rglob("*.py"), ROOT / "etc/cortex.toml"]
    words = {word for path in paths for word in NAME.findall(path.read_text("utf-8"))}
    return frozenset(words | {path.stem for path in paths})


def drawing_and_list(page: str) -> tuple[list[str], list[str]]:
    """Return the numbers in the first code block of a page, and those of the list right below."""
    _, drawing, below = re.split(r"^```.*\n", page, maxsplit=2, flags=re.MULTILINE)
    items = re.match(r"\n(?:(?:\d+\. |   ).*\n)+", below)
    numbers = re.findall(r"^(\d+)\. ", items[0], re.MULTILINE) if items is not None else []
    return re.findall(r"\d+", drawing), numbers


class DocumentTests(SynchronousTestCase):
    def test_paths(self) -> None:
        """Each repository path that a document names exists."""
        for path in DOCUMENTS:
            text = path.read_text("utf-8")
            assert [] == missing_paths(text) + missing_files(text), path.name

    def test_modules_and_commands(self) -> None:
        """Each dotted name leads to a module, and each target of make is in the Makefile."""
        for path in DOCUMENTS:
            text = path.read_text("utf-8")
            assert [] == missing_modules(text) + missing_targets(text), path.name

    def test_links(self) -> None:
        """Each link leads to a file, and to a heading of it where it names one."""
        for path in DOCUMENTS:
            assert [] == broken_links(path.read_text("utf-8"), path.parent), path.name

    def test_names(self) -> None:
        """Each name that a document about the code gives is one of the code."""
        for path in ABOUT_CODE:
            assert [] == missing_names(path.read_text("utf-8")), path.name

    def test_rows(self) -> None:
        """Each module in the tables of the rooms is in its room."""
        assert [] == list(missing_rows(ABOUT_CODE[0].read_text("utf-8")))

    def test_drawing(self) -> None:
        """The page of the rooms opens with a drawing that has the numbers of the list below it."""
        page = ABOUT_CODE[0].read_text("utf-8")
        drawn, listed = drawing_and_list(page)

        headings = re.findall(r"^#+ .*", page.partition("```")[0], re.MULTILINE)
        assert ["# Architecture", "## A request"] == headings
        assert len(listed) > 1
        assert sorted(listed) == sorted(drawn)


class FinderTests(SynchronousTestCase):
    """The tests above can fail: the finder finds what does not exist."""

    def test_paths_of_nothing(self) -> None:
        """A path of nothing is found in spans and in blocks; other paths are not looked at."""
        text = (
            "`cortexd/gone.py` and `tests/test_documents.py`, `/etc/cortex/x`, `~/docs/x`, "
            "`tests/<room>/test_<module>.py`\n\n"
            "```console\n$ cat etc/gone.toml etc/cortex.toml\n```\n"
        )
        assert ["cortexd/gone.py", "etc/gone.toml"] == missing_paths(text)

    def test_files_of_nothing(self) -> None:
        """A lone file name must be that of some file."""
        assert ["gone.py"] == missing_files("`gone.py`, `covers.py`, `a/other.py`, gone.md")

    def test_modules_of_nothing(self) -> None:
        """A dotted name may lead to a package, a module or a name in one."""
        text = (
            "`cortexd.tap`, `cortexd.fleet`, `cortexd.fleet.states.Operation`, `cortexd.gone`, "
            "`cortexd.tap.gone`"
        )
        assert ["cortexd.gone", "cortexd.tap.gone"] == missing_modules(text)

    def test_targets_of_nothing(self) -> None:
        """A target is looked for in spans, and in blocks after a prompt."""
        text = "`make test`, `make gone`, `make it so`\n\n```console\n$ make lost  # x\n```\n"
        assert ["gone", "lost"] == missing_targets(text)

    def test_names_of_nothing(self) -> None:
        """Names are those of modules, of rooms and of the source's words; other spans may be."""
        text = (
            "`allocator`, `placement.survey`, `nodes/messages_stream`, `max_wait`, `/v1/x`, "
            "`a = 1`, `nobodys_name`, `placement.nobodys_name`, `nodes/gone`"
        )
        assert ["nobodys_name", "placement.nobodys_name", "nodes/gone"] == missing_names(text)

    def test_rows_of_nothing(self) -> None:
        """A row without a room is of the room above it; other tables are passed over."""
        text = (
            "| `fleet/` | `states`, `gone` | x |\n| | `lost` | x |\n| `tap` | | x |\n"
            "| *word* | `meaning` | x |\n"
        )
        assert ["fleet/gone", "fleet/lost"] == list(missing_rows(text))

    def test_links_to_nothing(self) -> None:
        """A link is relative to its document; one to a heading needs that heading."""
        text = (
            "# A `b` C\n[x](README.md) [x](gone.md) [x](#a-b-c) [x](#gone) "
            "[x](docs/states.md#the-health-of-a-node) [x](docs/states.md#gone) [x](https://a.example)"
        )
        assert ["gone.md", "#gone", "docs/states.md#gone"] == broken_links(text, ROOT)

    def test_numbers_of_a_drawing(self) -> None:
        """Those of the list right below are read, whatever else follows."""
        page = "# A\n```text\n1 a\n2 b\n```\n\n1. a\n   b\n3. c\n\nText.\n\n7. d\n"
        assert (["1", "2"], ["1", "3"]) == drawing_and_list(page)
