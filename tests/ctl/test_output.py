from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.control.summaries import (
    ModelReplicaSummary,
    ModelSummary,
    ReplicaSummary,
)
from cortexd.ctl.output import (
    WIDEST,
    count,
    models_data,
    models_text,
    replicas_data,
    replicas_text,
    resident,
    table,
)
from cortexd.ctl.spans import duration
from cortexd.text import one_line

NOW = 1100.0
EVIL = "\x1b]0;owned\x07\n"


def replica(model: str, **changes: Any) -> ReplicaSummary:
    """Return a loaded and idle replica, but for the changes."""
    loaded = ReplicaSummary(
        model=model,
        state="loaded",
        leases=0,
        capacity=32,
        footprint_mb=16000,
        idle_seconds=75.0,
        loaded_seconds=100.0,
    )
    return msgspec.structs.replace(loaded, **changes)


def model(model_id: str, *replicas: tuple[str, str], **changes: Any) -> ModelSummary:
    """Return a model in these states on these nodes, but for the changes."""
    quiet = ModelSummary(
        id=model_id,
        replicas=[ModelReplicaSummary(node=name, state=state) for name, state in replicas],
        leases=0,
        waiting=0,
        longest_wait_seconds=None,
        pinned_on=[],
        coming_on=[],
        footprint_mb=16000,
        load_seconds=42.4,
    )
    return msgspec.structs.replace(quiet, **changes)


CHAT = replica("org/chat", leases=1, pinned=True)
OLD = replica(
    "org/old",
    state="unloaded",
    idle_seconds=None,
    loaded_seconds=None,
    footprint_mb=0,
    failures=2,
    failure="no such file",
    retry_seconds=10.0,
)
WAITED_FOR = model(
    "org/new", ("gpu-large", "unloaded"), waiting=3, longest_wait_seconds=12.9, coming_on=["gpu-2"]
)


class LoadingTests(SynchronousTestCase):
    def test_when_a_load_is_expected_to_end(self) -> None:
        """For a replica and for a model; nothing is said where nothing is known."""
        for seconds, words in ((75.4, "loading, 1m15s left"), (0.4, "loading, due now")):
            loading = replica("org/new", state="loading", expected_seconds=seconds)
            assert words in replicas_text([("gpu-1", loading)], NOW)
            new = model("org/new", ("gpu-1", "loading"), expected_seconds=seconds)
            assert words in models_text([new], NOW)
        unknown = replica("org/new", state="loading")
        assert "left" not in replicas_text([("gpu-1", unknown)], NOW)

    def test_a_model_that_is_loaded_elsewhere(self) -> None:
        """Nobody waits for the load of its other copy."""
        places = ("gpu-1", "loaded"), ("gpu-2", "loading")
        assert "left" not in models_text([model("org/a", *places, expected_seconds=9.0)], NOW)


class VisibleTests(SynchronousTestCase):
    def test_plain(self) -> None:
        """What a terminal shows as it is stays as it is."""
        assert "Qwen/Qwen3-8B größe 模型" == one_line("Qwen/Qwen3-8B größe 模型")

    def test_escapes(self) -> None:
        """What a terminal would obey or hide is shown by its code."""
        assert r"\x1b[2Jred\r\n\x9b\u202e" == one_line("\x1b[2Jred\r\n\x9b\u202e")

    @given(st.text())
    def test_anything(self, text: str) -> None:
        """Whatever a node calls its models, nothing but printable characters comes out."""
        assert one_line(text).isprintable()


class DurationTests(SynchronousTestCase):
    def test_two_largest_units(self) -> None:
        """A time span is told by its two largest units."""
        spans = {
            0.0: "0s",
            0.9: "0s",
            12: "12s",
            60: "1m0s",
            310: "5m10s",
            3600: "1h0m",
            86399: "23h59m",
            183600: "2d3h",
        }
        assert list(spans.values()) == [duration(seconds) for seconds in spans]

    def test_clocks_that_disagree(self) -> None:
        """A time that is yet to come is now."""
        assert "0s" == duration(-5.0)


class TableTests(SynchronousTestCase):
    def test_aligned(self) -> None:
        """Columns begin where their header does, and lines end without blanks."""
        expected = "NAME  HEALTH\na     up\nlong  down\n"
        assert expected == table(("NAME", "HEALTH"), [("a", "up"), ("long", "down")])

    def test_escapes_take_place(self) -> None:
        """An escaped cell is as wide as its escape."""
        assert "NAME  X\n\\x1b  1\n" == table(("NAME", "X"), [("\x1b", "1")])

    @given(st.lists(st.tuples(st.text(min_size=1), st.integers().map(str))))
    def test_one_line_each(self, rows: list[tuple[str, str]]) -> None:
        """Whatever is in the cells, each row is one line and its last column is aligned.

        Behind a cell that is too long to widen its column, the row ends later.
        """
        lines = table(("NAME", "COUNT"), rows).split("\n")
        assert len(rows) + 2 == len(lines)
        column = lines[0].index("COUNT")
        for line, (name, cell) in zip(lines[1:-1], rows, strict=True):
            shown = one_line(name)
            assert cell == line[column if len(shown) <= WIDEST else len(shown) + 2 :]

    def test_one_long_cell_does_not_pad_the_other_rows(self) -> None:
        """A list of a thousand nodes stands in one row; ten thousand rows are as short as ever."""
        rows = [("a", "x" * 8000, "1"), *[("b", "y", "2")] * 1000]
        shown = table(("NAME", "NODES", "COUNT"), rows)

        assert "b     y      2\n" in shown
        assert len(shown) < 8000 + 1000 * 20


class CountTests(SynchronousTestCase):
    def test_one_and_many(self) -> None:
        """One thing is told in the singular, any other number in the plural."""
        assert ["0 requests", "1 request", "2 requests"] == [
            count(number, "request") for number in range(3)
        ]


class ReplicasTests(SynchronousTestCase):
    replicas = {"gpu-large": [CHAT, OLD], "gpu-2": [replica("org/embed")]}  # noqa: RUF012 - constant

    def test_what_is_in_memory(self) -> None:
        """Only that is listed, with its node and for how long it has been idle."""
        expected = """\
MODEL      NODE       STATE   MiB    LEASES  IDLE   PINNED
org/chat   gpu-large  loaded  16000  1/32    -      yes
org/embed  gpu-2      loaded  16000  0/32    1m15s  -
"""
        assert expected == replicas_text(resident(self.replicas), NOW)

    def test_ejected(self) -> None:
        """An ejected replica shows until when."""
        text = replicas_text([("ada", replica("acme/chat", ejected_seconds=8.0))], 0)
        assert "loaded, ejected for 8s" in text

    def test_assumed_footprint(self) -> None:
        """What nobody has measured or configured is marked as no more than assumed."""
        assumed = replica("org/chat", footprint_mb=4437, footprint_is_known=False)
        none = replica("org/far", footprint_mb=0, footprint_is_known=False)
        lines = replicas_text([("n", assumed), ("n", none)], NOW).splitlines()

        assert ["~4437", "-"] == [line.split()[3] for line in lines[1:]]

    def test_data(self) -> None:
        """The JSON has each with the name of its node."""
        [chat, embed] = replicas_data(resident(self.replicas))["replicas"]
        assert ("gpu-large", "org/chat", True) == (chat["node"], chat["model"], chat["pinned"])
        assert ("gpu-2", "org/embed", 75.0) == (
            embed["node"],
            embed["model"],
            embed["idle_seconds"],
        )


class ModelsTests(SynchronousTestCase):
    models = [  # noqa: RUF012 - constant
        model("org/chat", ("a", "draining"), ("b", "loaded"), leases=2, pinned_on=["b"]),
        model("org/new", ("a", "unloaded"), ("b", "loading"), waiting=3),
        model("org/old", ("a", "unloaded"), footprint_mb=None, load_seconds=None),
    ]

    def test_text(self) -> None:
        """A model has the state of the replica that answers soonest; what is not known is "?"."""
        expected = """\
MODEL     STATE     LOADED ON  NODES  MiB    LOAD  LEASES  WAITING  PINNED ON  TEMPLATE
org/chat  loaded    b          2      16000  42s   2       0        b          ?
org/new   loading   -          2      16000  42s   0       3        -          ?
org/old   unloaded  -          1      ?      ?     0       0        -          ?
"""
        assert expected == models_text(self.models, NOW)

    def test_on_nodes_that_are_down(self) -> None:
        """What those had loaded is loaded nowhere, and what they alone list is unavailable."""
        up = ModelReplicaSummary(node="a", state="unloaded")
        down = ModelReplicaSummary(node="b", state="loaded", node_health="down")
        models = [model("org/chat", replicas=[up, down]), model("org/old", replicas=[down])]
        rows = [line.split()[:3] for line in models_text(models, NOW).splitlines()[1:]]

        assert [["org/chat", "unloaded", "-"], ["org/old", "unavailable", "-"]] == rows

    def test_data(self) -> None:
        """The JSON has the state on each node."""
        [chat, *_others] = models_data(self.models)["models"]
        states = [(replica["node"], replica["state"]) for replica in chat["places"]]
        assert [("a", "draining"), ("b", "loaded")] == states
