"""Checks of the labels of nodes, and of what models say of their copies and where these may be."""

import difflib
from collections.abc import Collection

from cortexd.config.addresses import quoted, refusal
from cortexd.config.settings import Config, ModelSettings, NodeSettings
from cortexd.config.tables import as_written, fail
from cortexd.text import printable


def check_copies(config: Config) -> None:
    """Raise FaultError for labels that no node has, and for copies that there cannot be."""
    for index, node in enumerate(config.nodes):
        _check_once(f"nodes[{index}] ({node.name}).labels", node.labels)
    labels = dict.fromkeys(label for node in config.nodes for label in node.labels)
    for index, model in enumerate(config.models):
        path = f"models[{index}] ({printable(model.id)})"
        for key in ("only_on", "prefer"):
            _check_labels(f"{path}.{key}", getattr(model, key), labels)
        _check_numbers(path, model, config)


def _check_once(path: str, labels: tuple[str, ...]) -> None:
    for position, label in enumerate(labels):
        if label in labels[:position]:
            fail(f"{path}[{position}]", refusal(f"{quoted(label)} again", "each label once"))


def _check_labels(path: str, wanted: tuple[str, ...], labels: Collection[str]) -> None:
    _check_once(path, wanted)
    for position, label in enumerate(wanted):
        if label not in labels:
            nearest = difflib.get_close_matches(label, labels, n=1)
            words = ", such as ".join(["a label of a node", *map(quoted, nearest)])
            fail(f"{path}[{position}]", refusal(quoted(label), words))


def _is_allowed(model: ModelSettings, node: NodeSettings) -> bool:
    return not model.only_on or not set(model.only_on).isdisjoint(node.labels)


def _check_numbers(path: str, model: ModelSettings, config: Config) -> None:
    """Raise FaultError where the nodes, the limits and the pins of a model contradict each other.

    A node that manages its models itself loads no copy for us.
    """
    least, most = model.min_copies, model.max_copies
    if 0 < most < least:
        words = f"at most max_copies, which is {most}"
        fail(f"{path}.min_copies", refusal(as_written(least), words))
    able = [
        node for node in config.nodes if node.runs.abilities.is_managed and _is_allowed(model, node)
    ]
    if least > len(able):
        words = f"at most {len(able)}, the number of nodes that may load it"
        fail(f"{path}.min_copies", refusal(as_written(least), words))
    pinned = [node for node in config.nodes if model.id in config.pins[node.name]]
    for node in pinned:
        if not _is_allowed(model, node):
            words = f"a list with a label of {node.name}, where the model is pinned"
            fail(f"{path}.only_on", refusal(", ".join(map(quoted, model.only_on)), words))
    if 0 < most < len(pinned):
        words = f"0 or at least {len(pinned)}, the number of nodes where it is pinned"
        fail(f"{path}.max_copies", refusal(as_written(most), words))
