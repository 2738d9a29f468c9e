"""The constraints that `make` installs by, compared with the requirements of pyproject.toml."""

import re
import tomllib
from itertools import chain
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parent.parent
CONSTRAINTS = ROOT / "constraints"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
GROUPS = PROJECT["dependency-groups"]
REQUIREMENT = re.compile(r"(?P<name>[a-z0-9-]+)(?:\[[a-z]+\])?(?:>=|==)(?P<bound>[0-9.]+)")


def bounds(requirements: list[str]) -> dict[str, str]:
    """Return the lower bound, or the only version, of each requirement by package name."""
    found = [REQUIREMENT.fullmatch(requirement) for requirement in requirements]
    assert all(found), requirements
    return {each["name"]: each["bound"] for each in found if each}


def versions(file: str) -> dict[str, str]:
    """Return the version of each package in a file of constraints, by package name."""
    text = (CONSTRAINTS / file).read_text("utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    pairs = [line.split("==") for line in lines]
    return {name.lower().replace("_", "-"): version for name, version in pairs}


class ConstraintsTests(SynchronousTestCase):
    def test_the_oldest_are_the_lower_bounds(self) -> None:
        """`make test-oldest` installs the lower bounds of the runtime and test dependencies."""
        required = bounds([*PROJECT["project"]["dependencies"], *GROUPS["test"]])
        oldest = versions("oldest.txt")
        assert required == {name: oldest.get(name) for name in required}

    def test_each_requirement_has_a_tested_version(self) -> None:
        """`make` installs one tested version of pip and of every package in pyproject.toml."""
        groups = chain(GROUPS["test"], GROUPS["lint"], GROUPS["engine"])
        extras = chain.from_iterable(PROJECT["project"]["optional-dependencies"].values())
        required = bounds([*PROJECT["project"]["dependencies"], *extras, *groups])
        assert set() == {"pip", *required} - set(versions("tested.txt"))

    def test_constraints_are_versions_alone(self) -> None:
        """Each line is a name and a version, without an address."""
        for file in ("tested.txt", "oldest.txt", "old_sdks.txt"):
            for name, version in versions(file).items():
                assert re.fullmatch(r"[a-z0-9.-]+", name), name
                assert re.fullmatch(r"[0-9][0-9a-z.+]*", version), (name, version)
