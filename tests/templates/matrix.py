"""The matrix of conversations, templates and dialects, and its table."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from cortexd.dialects.wire.profile import MISTRALRS, Profile
from tests.doubles.templates.rendering import TemplateError, render
from tests.templates.conversation import Dialect
from tests.templates.judging import Cell, judge
from tests.templates.learning import learned_profile
from tests.templates.shapes import SHAPES

DIALECTS: Final[tuple[Dialect, ...]] = ("chat", "messages", "responses")
OWN: Final = Path(__file__).parent / "own"


def templates_of(folder: Path) -> dict[str, str]:
    """Return the templates of a folder by their names."""
    paths = sorted(folder.glob("*.jinja"))
    return {path.stem: path.read_text("utf-8") for path in paths}


def profiles_of(templates: Mapping[str, str]) -> dict[str, Profile]:
    """Return what the gateway learns of each template."""
    return {name: learned_profile(template) for name, template in templates.items()}


def untaught(templates: Iterable[str]) -> dict[str, Profile]:
    """Return the profile of each model before the gateway has learned anything."""
    return dict.fromkeys(templates, MISTRALRS)


def fault_of(template: str) -> str:
    """Return the words of a template that renders not even one question, else an empty string.

    No order of messages could mend that: a node cannot serve the model at all.
    """
    try:
        render(template, {"messages": "question"})
    except TemplateError as error:
        return str(error)
    return ""


def cells(templates: Mapping[str, str], profiles: Mapping[str, Profile]) -> Iterator[Cell]:
    """Yield the judgement about each conversation in each dialect for each template."""
    for name, template in templates.items():
        profile = profiles[name]
        for shape in SHAPES:
            if shape.needs_vision and not profile.vision:
                continue
            for dialect in DIALECTS:
                if dialect in shape.dialects:
                    yield Cell(name, shape.name, dialect, judge(shape, dialect, template, profile))


def bad(judged: Iterable[Cell]) -> list[Cell]:
    """Return the cells that are bad."""
    return [cell for cell in judged if cell.reason]


def table(judged: Iterable[Cell]) -> Iterator[str]:
    """Yield the lines of the table: the bad cells and all cells, by template and dialect."""
    judged = list(judged)
    counts = Counter((cell.template, cell.dialect, bool(cell.reason)) for cell in judged)
    templates = list(dict.fromkeys(cell.template for cell in judged))
    width = max(map(len, templates), default=0)
    yield f"{'template':{width}}" + "".join(f"{dialect:>12}" for dialect in DIALECTS)
    for name in templates:
        row = f"{name:{width}}"
        for dialect in DIALECTS:
            faults = counts[name, dialect, True]
            row += f"{f'{faults}/{faults + counts[name, dialect, False]}':>12}"
        yield row
