"""Whether each citation of docs/nodes.md and docs/translation.md leads to one place there.

A citation is the name of a page and the number of a heading, a fact or a row, as in nodes.md 2.5 or
translation.md 1.2.9 and 4.1.
"""

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.covers import ROWS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = ("nodes", "translation")
FOLDERS = ("cortexd", "tests", "bench", "e2e", "twisted")

NUMBER = r"\d+(?:\.\d+)*"
NUMBERS = rf"{NUMBER}(?:(?:, and|,| and| to) {NUMBER})*"
CITATION = re.compile(rf"(docs/)?\b({'|'.join(PAGES)})\.md\b(?: ({NUMBERS}))?")
PLACE = re.compile(
    rf"^(?:\#+\ ({NUMBER})\.?\  |-\ \*\*({NUMBER})\*\*\  |\|\ (\d+(?:\.\d+)+)\ \|)",
    re.MULTILINE | re.VERBOSE,
)
OLDER_FORM = re.compile(
    rf"\b(?:upstream|dialect)\ notes\b | \bnotes\ \d | \btraps?\ \d | \bparts?\ {NUMBER}"
    rf" | (?<!\w)\(\d\.\d+(?:(?:,|\ and)\ {NUMBER})*\)",
    re.VERBOSE,
)
FIRST_CELL = re.compile(r"\| (.+?) \|")
NO_NUMBER = "without a number"

MADE_UP = {"nodes": Counter(["2", "2.5", "2.5.1", "7", "7"]), "translation": Counter(["4.1"])}
"""How often a number stands in the pages of the tests of the finder."""


def places(page: str) -> Counter[str]:
    """Return how often each number stands at a heading, a fact or a row of a page."""
    return Counter(match[1] or match[2] or match[3] for match in PLACE.finditer(page))


def rows(page: str) -> Iterator[str]:
    """Yield the names of the rows in the tables whose first column is called "row"."""
    section, is_inside = "", False
    for line in page.splitlines():
        if heading := re.match(rf"#+ ({NUMBER})\.? ", line):
            section = heading[1]
        if not line.startswith("|"):
            is_inside = False
        elif line.startswith("| row |"):
            is_inside = True
        elif is_inside and (cell := FIRST_CELL.match(line)):
            yield cell[1] if re.fullmatch(r"T\d+", cell[1]) else f"{section} {cell[1]}"


def prose(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of each docstring and each comment of a module, without line ends."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.lineno, " ".join(str(node.value.value).split())
    block: list[str] = []
    first = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line = token.start[0]
            if line != last + 1:
                yield first, " ".join(block)
                block, first = [], line
            block.append(token.string.lstrip("# "))
            last = line
    yield first, " ".join(block)


def passages(pattern: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    """Yield place and text of the docstrings and comments of modules that have the pattern."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            source = path.read_text("utf-8")
            # Parsing every module takes 5 s.
            if pattern.search(" ".join(source.replace("#", " ").split())):
                for line, text in prose(source):
                    yield f"{path.relative_to(ROOT)}:{line}", text


def faults(text: str, known: dict[str, Counter[str]]) -> list[str]:
    """Return the citations in a text that do not lead to exactly one place.

    The path of a page stands for all of it; its name alone needs a number.
    """
    found = []
    for path, page, numbers in CITATION.findall(text):
        if not numbers and not path:
            found.append(f"{page}.md {NO_NUMBER}")
        found += [
            f"{page}.md {number}"
            for number in re.findall(NUMBER, numbers)
            if known[page][number] != 1
        ]
    return found


KNOWN = {page: places((DOCS / f"{page}.md").read_text("utf-8")) for page in PAGES}


class CitationTests(SynchronousTestCase):
    def test_every_citation_leads_to_one_place(self) -> None:
        """Each number that code and tests cite is that of one heading, fact or row."""
        cited = list(passages(CITATION))

        assert cited
        assert [] == [f"{place}: {fault}" for place, text in cited for fault in faults(text, KNOWN)]

    def test_documents_cite_what_is_there(self) -> None:
        """So is each number that a document cites; a document may link a whole page."""
        for path in DOCS.glob("*.md"):
            text = " ".join(path.read_text("utf-8").split())
            found = [fault for fault in faults(text, KNOWN) if not fault.endswith(NO_NUMBER)]
            assert [] == found, path.name

    def test_no_citation_has_an_older_form(self) -> None:
        """No number stands without its page, and no document is cited that is not here."""
        assert [] == [
            f"{place}: {match[0]}"
            for place, text in passages(OLDER_FORM)
            for match in OLDER_FORM.finditer(text)
        ]

    def test_no_number_stands_twice(self) -> None:
        """Each number of a page stands once, so that a citation can lead to one place only."""
        for page, numbers in KNOWN.items():
            assert [] == [number for number, times in numbers.items() if times > 1], page

    def test_the_rows_are_those_of_the_tests(self) -> None:
        """The tables of docs/translation.md have the rows of covers.py, each once, and no other."""
        found = list(rows((DOCS / "translation.md").read_text("utf-8")))

        assert sorted(ROWS) == sorted(found)


class FinderTests(SynchronousTestCase):
    """The tests above can fail: the finder finds wrong citations."""

    def test_a_wrong_number(self) -> None:
        """A number of no place, or of two, is found, also in a list of several."""
        for text, wrong in (
            ("see nodes.md 2.9", ["nodes.md 2.9"]),
            ("(nodes.md 2.5, 2.6 and 3).", ["nodes.md 2.6", "nodes.md 3"]),
            ("docs/translation.md 4.1 to 4.3: so", ["translation.md 4.3"]),
            ("nodes.md 7", ["nodes.md 7"]),
            ("translation.md 2.5, nodes.md 2.5", ["translation.md 2.5"]),
            ("as nodes.md says", [f"nodes.md {NO_NUMBER}"]),
        ):
            assert wrong == faults(text, MADE_UP), text

    def test_a_right_number(self) -> None:
        """A citation that leads to one place is right, and so is the path of a page."""
        for text in (
            "it is killed (nodes.md 2.5.1, and 2).",
            "translation.md 4.1. 3 s later",
            "the rows of docs/translation.md are these",
        ):
            assert [] == faults(text, MADE_UP), text

    def test_a_citation_in_a_module(self) -> None:
        """Docstrings and comments are read across their lines, and other strings are not."""
        source = '"""See nodes.md\n2.9.\n"""\nX = 1  # or\n# nodes.md\n# 2.8\nY = "nodes.md 2.7"\n'
        found = [fault for _, text in prose(source) for fault in faults(text, MADE_UP)]

        assert ["nodes.md 2.9", "nodes.md 2.8"] == found

    def test_an_older_form(self) -> None:
        """A number without its page is found; the number of a thing is not."""
        for text in ("it ends (2.5).", "see (part 7)", "upstream notes", "(2.5, 2.6)", "trap 13"):
            assert OLDER_FORM.search(text), text
        for text in ("(RFC 9112 9.3)", "it takes (1.5 s)", "call(2.5)", "parts of a body"):
            assert not OLDER_FORM.search(text), text

    def test_the_places_of_a_page(self) -> None:
        """Headings, facts and numbered rows are places; the cells of other rows are not."""
        page = "# T\n## 2. A\n### 2.5 B\n- **2.5.1** fact\n| no. |\n| 2.5.2 | x |\n| 7 | x |\n"

        assert ["2", "2.5", "2.5.1", "2.5.2"] == sorted(places(page))

    def test_the_rows_of_a_page(self) -> None:
        """A row is named by its section and its first cell, a trap by its first cell alone."""
        lines = ("## 4. A", "| row | x |", "|---|---|", "| a b | x |", "", "| no. |", "| c |", "")

        assert ["4 a b", "T7"] == list(rows("\n".join([*lines, "| row |", "| T7 |"])))
