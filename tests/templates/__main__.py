"""Prints the matrix: ``TEMPLATES=folder make templates``, or ``python -m tests.templates``.

Without a folder, the templates are those of this project, and each bad cell is a failure. With one,
up to 1 % of the cells may be bad; each is listed with its reason.
"""

import os
import sys
from pathlib import Path
from typing import Final

from tests.templates.matrix import (
    OWN,
    bad,
    cells,
    fault_of,
    profiles_of,
    table,
    templates_of,
    untaught,
)

MOST_BAD: Final = 0.01
"""The share of bad cells that the templates of a folder may have."""


def main(folder: str) -> int:
    """Print the table of the project's own templates, then that of a folder's, if any.

    Return the exit status: 1 if too many cells are bad.
    """
    status = _report("our own templates", OWN, 0.0)
    if folder:
        status |= _report(folder, Path(folder), MOST_BAD)
    return status


def _report(title: str, folder: Path, most: float) -> int:
    templates = templates_of(folder)
    if not templates:
        print(f"{folder}: no template (*.jinja) there")
        return 1
    for name in list(templates):
        if fault := fault_of(templates[name]):
            print(f"\n{name}: left out, because no node can serve the model: {fault}")
            del templates[name]
    judged = list(cells(templates, profiles_of(templates)))
    faults = bad(judged)
    share = len(faults) / len(judged)
    before = list(cells(templates, untaught(templates)))
    print(f"\n{title}: {len(templates)} templates\n")
    for line in table(judged):
        print(line)
    print()
    for cell in faults:
        print(f"bad: {cell.template}, {cell.shape}, {cell.dialect}: {cell.reason}")
    print(f"{len(faults)} of {len(judged)} cells are bad: {share:.2%}, at most {most:.0%}")
    print(f"Before the gateway has learned anything: {len(bad(before)) / len(before):.2%}")
    return int(share > most)


if __name__ == "__main__":
    sys.exit(main(os.environ.get("TEMPLATES", "")))
