"""`python -m bench.reliability [SCENE…]`: play scenes that try to stop the daemon.

Without names it plays all scenes. It prints a table of the figures with their bars, and ends with
status 1 if a figure exceeds its bar. `--list` prints the names of the scenes.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence

import bench.reliability
from bench.reliability.scene import Figure

NO_SCENES = ("__main__", "daemons", "scene")


def scenes() -> dict[str, str]:
    """Return the modules of all scenes by their names, sorted.

    A scene in a folder has the folder in its name: ``agents.cut_link``.
    """
    package = bench.reliability.__name__ + "."
    walked = pkgutil.walk_packages(bench.reliability.__path__, package)
    found = (module.name for module in walked if not module.ispkg)
    names = {path.removeprefix(package): path for path in found}
    return {name: names[name] for name in sorted(names) if name not in NO_SCENES}


def table(scene: str, figures: Sequence[Figure]) -> str:
    """Return the figures of a scene as rows of a Markdown table."""
    rows = []
    for figure in figures:
        bar = "" if figure.bar is None else f"{figure.bar:g}"
        verdict = "" if figure.bar is None else ("holds" if figure.holds else "**missed**")
        value = f"{figure.value:.6g} {figure.unit}".rstrip()
        rows.append(f"| {scene} | {figure.what} | {value} | {bar} | {verdict} |")
    return "\n".join(rows)


def main() -> int:
    """Play the scenes that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenes", nargs="*", metavar="SCENE", help="the scenes, all by default")
    parser.add_argument("--list", action="store_true", help="print the names of the scenes")
    parser.add_argument("--seed", type=int, default=1, help="the seed of what is random")
    options = parser.parse_args()
    known = scenes()
    unknown = [name for name in options.scenes if name not in known]
    if unknown:
        parser.error(f"no such scene: {', '.join(unknown)} (see --list)")
    if options.list:
        print("\n".join(known))
        return 0
    print("| scene | figure | value | bar | |\n| --- | --- | ---: | ---: | --- |")
    hold = True
    for name in options.scenes or known:
        figures = importlib.import_module(known[name]).run(options)
        hold = hold and all(figure.holds for figure in figures)
        print(table(name, figures), flush=True)
    return 0 if hold else 1


if __name__ == "__main__":
    sys.exit(main())
