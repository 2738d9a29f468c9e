"""Only the fleet writes into nodes and replicas; every other room reads them."""

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from cortexd.fleet.nodes import Node, Replica

ROOT = Path(__file__).parents[2] / "cortexd"
FIELDS = {each.name for kind in (Node, Replica) for each in dataclasses.fields(kind)}
CONTAINERS = {"pins", "replicas"}
MUTATORS = {"clear", "pop", "popitem", "setdefault", "update"}
SETTERS = {"setattr", "delattr", "__setattr__", "__delattr__"}

OF_OTHER_CLASSES = {"call.name", "record.model", "record.node"}
"""Attributes that other rooms assign: their own classes have fields of the same names."""


def writes(source: str) -> Iterator[str]:
    """Yield each expression through which a module writes into a field of a node or replica.

    An attribute counts by its name, whatever object has it, except for one of ``self``.
    """
    for step in ast.walk(ast.parse(source)):
        match step:
            case ast.Attribute(ctx=ast.Store() | ast.Del()) if is_field(step):
                yield ast.unparse(step)
            case ast.Subscript(value=container, ctx=ast.Store() | ast.Del()) if is_field(container):
                yield ast.unparse(step)
            case ast.Call(
                func=ast.Attribute(value=ast.Attribute(attr=field) as container, attr=name)
            ) if name in MUTATORS and field in CONTAINERS and is_field(container):
                yield ast.unparse(step)
            case ast.Call(
                func=ast.Name(id=name) | ast.Attribute(attr=name),
                args=[_, ast.Constant(value=field), *_],
            ) if name in SETTERS and field in FIELDS:
                yield ast.unparse(step)


def is_field(expression: ast.expr) -> bool:
    """Return whether an expression is an attribute with the name of a field, not of ``self``."""
    return (
        isinstance(expression, ast.Attribute)
        and expression.attr in FIELDS
        and not (isinstance(expression.value, ast.Name) and expression.value.id == "self")
    )


class WriterTests(SynchronousTestCase):
    def test_only_the_fleet(self) -> None:
        """No module outside ``cortexd/fleet`` assigns an attribute of a node or a replica."""
        found = {
            written: path
            for path in ROOT.rglob("*.py")
            if ROOT / "fleet" not in path.parents
            for written in writes(path.read_text(encoding="utf-8"))
        }

        assert set() == found.keys() - OF_OTHER_CLASSES, found
        assert set() == OF_OTHER_CLASSES - found.keys()

    def test_every_form_of_a_write(self) -> None:
        """Each statement that changes a node or a replica is found, and reading is not."""
        for source in (
            "replica.leases += 1",
            "swap.node.state: int = 1",
            "first, other.reason = 1, 2",
            "for node.name in names: pass",
            "del replica.base",
            "node.pins[model] = None",
            "del self.node.replicas[model]",
            "node.pins.pop(model, None)",
            "setattr(replica, 'state', 1)",
            "object.__setattr__(replica, 'state', 1)",
        ):
            assert 1 == len(list(writes(source))), source
        for source in ("self.state = replica.state", "node.pins.get(model)", "waiter.pressed = 1"):
            assert [] == list(writes(source)), source
