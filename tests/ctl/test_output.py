import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.control.summaries import (
    LeaseSummary,
    ModelReplicaSummary,
    ModelSummary,
    NodeSummary,
    ReplicaSummary,
    SwapSummary,
)
from cortexd.ctl.output import (
    WIDEST,
    Status,
    count,
    models_data,
    models_text,
    nodes_data,
    nodes_text,
    replicas_data,
    replicas_text,
    resident,
    status_data,
    status_text,
    table,
)
from cortexd.ctl.spans import duration
from cortexd.text import one_line

NOW = 1100.0
EVIL = "\x1b]0;owned\x07\n"


def node(name: str, **changes: Any) -> NodeSummary:
    """Return a node that works, but for the changes."""
    working = NodeSummary(
        name=name,
        endpoint=f"http://{name}:8000",
        health="up",
        reason="answers",
        since=1000.0,
        last_answer_at=1100.0,
        version="0.9.5",
        memory_total_mb=81920,
        memory_free_mb=40960,
        memory_budget_mb=76800,
        restarts=2,
        leases=1,
        replica_states={"loaded": 1, "stuck": 1, "unloaded": 1},
        memory_committed_mb=40000,
        memory_leaked_mb=512,
        unloads=7,
        pins=["org/chat"],
    )
    return msgspec.structs.replace(working, **changes)


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


LARGE = node("gpu-large")
SMALL = node(
    "gpu-2",
    health="down",
    reason="connection refused",
    since=1090.0,
    version=None,
    memory_total_mb=None,
    memory_free_mb=None,
    memory_budget_mb=20480,
    memory_committed_mb=0,
    leases=0,
    replica_states={},
    cordoned=True,
)
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
LEASE = LeaseSummary(request_id="request-1", model="org/chat", node="gpu-large", age_seconds=3.2)
WAITED_FOR = model(
    "org/new", ("gpu-large", "unloaded"), waiting=3, longest_wait_seconds=12.9, coming_on=["gpu-2"]
)
WHOLE = Status(
    nodes=[LARGE, SMALL],
    replicas={"gpu-large": [CHAT, OLD], "gpu-2": []},
    leases=[LEASE],
    models=[model("org/chat", ("gpu-large", "loaded")), WAITED_FOR],
)


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


class StatusTests(SynchronousTestCase):
    def test_whole(self) -> None:
        """Nodes, what is amiss, who waits, what is loaded and what runs stand below each other."""
        expected = """\
NAME       HEALTH          VERSION  MEMORY              COMMITTED      REPLICAS  LEASES  SINCE
gpu-large  up              0.9.5    40.0/80.0 GiB free  39.1/75.0 GiB  2/3       1       1m40s
gpu-2      down, cordoned  -        -                   0.0/20.0 GiB   0/0       0       10s

gpu-2 (http://gpu-2:8000) is down: connection refused

MODEL    WAITING  LONGEST  COMING ON
org/new  3        12s      gpu-2

MODEL     NODE       STATE   MiB    LEASES  IDLE  PINNED
org/chat  gpu-large  loaded  16000  1/32    -     yes

gpu-large failed 2 times to load org/old: no such file

REQUEST    MODEL     NODE       KEY  AGE
request-1  org/chat  gpu-large  -    3s
"""
        assert expected == status_text(WHOLE, NOW)

    def test_idle(self) -> None:
        """What there is none of has no table."""
        idle = Status(nodes=[LARGE], replicas={"gpu-large": []}, leases=[], models=[])
        assert 2 == len(status_text(idle, NOW).splitlines())

    def test_total_memory_only(self) -> None:
        """A node that tells its total memory alone is shown with that."""
        half = Status(
            nodes=[node("n", memory_free_mb=None)], replicas={"n": []}, leases=[], models=[]
        )
        assert "?/80.0 GiB free" in status_text(half, NOW)

    def test_no_budget(self) -> None:
        """A node whose memory is not ours to share out has no figures of it."""
        foreign = node("far", memory_total_mb=None, memory_budget_mb=0, memory_committed_mb=0)
        row = nodes_text([foreign], NOW).splitlines()[1]

        assert ["far", "up", "0.9.5", "-", "-", "2/3"] == row.split()[:6]

    def test_a_node_that_is_down(self) -> None:
        """What it last said of its memory is no news, and what it had loaded answers nobody."""
        down = node("gpu-1", health="down", reason="no answer within 2 s", leases=0)
        had = replica("org/chat", node_health="down")
        text = status_text(
            Status(nodes=[down], replicas={"gpu-1": [had]}, leases=[], models=[]), NOW
        )

        assert "free" not in text
        assert "org/chat  gpu-1  loaded, node down  16000  0/32" in text

    def test_hostile_words(self) -> None:
        """No word of a node or a client reaches the terminal raw, wherever it is shown."""
        swap = SwapSummary(
            phase="loading",
            target=EVIL,
            victims=[],
            moving=EVIL,
            leases=0,
            age_seconds=1.0,
            decision=1,
        )
        status = Status(
            nodes=[
                node("n", health="down", reason=EVIL, version=EVIL, restart_reason=EVIL, swap=swap)
            ],
            replicas={"n": [replica(EVIL, state=EVIL, failures=1, failure=EVIL)]},
            leases=[msgspec.structs.replace(LEASE, request_id=EVIL, model=EVIL)],
            models=[model(EVIL, waiting=1, longest_wait_seconds=1.0)],
        )
        text = status_text(status, NOW)
        assert text.replace("\n", "").isprintable()
        assert 11 == text.count("owned")

    def test_data(self) -> None:
        """The JSON has every node with its replicas, the leases, and what is waited for."""
        data = status_data(WHOLE)
        assert ["nodes", "leases", "waiting"] == list(data)
        large, small = data["nodes"]
        assert ("gpu-large", "up") == (large["name"], large["health"])
        assert ["org/chat", "org/old"] == [each["model"] for each in large["replicas"]]
        assert (None, []) == (small["version"], small["replicas"])
        assert [msgspec.to_builtins(LEASE)] == data["leases"]
        assert [("org/new", 3)] == [(each["id"], each["waiting"]) for each in data["waiting"]]
        assert data == json.loads(json.dumps(data))


class NotesTests(SynchronousTestCase):
    def note(self, **changes: Any) -> str:
        """Return what is said below the table of one node."""
        _table, _blank, notes = nodes_text([node("gpu-1", **changes)], NOW).partition("\n\n")
        return notes

    def swap(self, phase: str, **changes: Any) -> str:
        """Return what is said of a swap of org/old for org/new."""
        swap = SwapSummary(
            phase=phase,
            target="org/new",
            victims=["org/old"],
            moving=None,
            leases=2,
            age_seconds=75.0,
            decision=3,
        )
        return self.note(swap=msgspec.structs.replace(swap, **changes))

    def test_nothing_amiss(self) -> None:
        """Of a node that is well and at rest nothing is said."""
        assert "" == self.note()

    def test_restart(self) -> None:
        """A node that needs a restart is said to, with the reason."""
        assert "gpu-1 needs a restart: stuck: org/old\n" == self.note(
            restart_reason="stuck: org/old"
        )

    def test_ejected(self) -> None:
        """A model that gets no requests on a node shows, with the reason."""
        assert (
            "gpu-1 gets no requests for acme/chat, which failed there: CUDA error\n"
            == self.note(ejected={"acme/chat": "CUDA error"})
        )

    def test_pins_that_are_not_listed(self) -> None:
        """An id that was mistyped is never loaded, and nothing else would tell."""
        words = "gpu-1 does not list org/chta, although pinned there; "
        words += "'cortexctl models' shows the ids\n"
        assert words == self.note(unlisted_pins=["org/chta"])

    def test_more_memory_than_there_is(self) -> None:
        """A budget beyond the node's memory is told; what drivers keep of a card is not."""
        words = (
            "gpu-1 has only 71680 MiB, but models may fill 76800 MiB: vram_mb minus reserve_mb is "
            "too large"
        )
        assert f"{words}\n" == self.note(memory_total_mb=71680)
        assert "" == self.note(memory_total_mb=76000)

    def test_unmanaged(self) -> None:
        """Why a node that speaks Messages alone has no figures is said, but is nothing amiss."""
        foreign = node("far", version=None, memory_total_mb=None, is_managed=False)
        status = Status(nodes=[foreign], replicas={"far": []}, leases=[], models=[])
        words = "far speaks only Messages: it reports neither version nor memory, and loads and "

        assert (
            f"{words}unloads models by itself\n" == nodes_text([foreign], NOW).partition("\n\n")[2]
        )
        assert words not in status_text(status, NOW)

    def test_each_phase_of_a_swap(self) -> None:
        """What is waited for, unloaded or loaded is said, for what, and since when."""
        assert "gpu-1 waits for 2 requests on org/old to load org/new, for 1m15s\n" == self.swap(
            "draining"
        )
        assert "gpu-1 unloads org/old to load org/new, for 1m15s\n" == self.swap(
            "unloading", moving="org/old", leases=0
        )
        assert "gpu-1 loads org/new, for 1m15s\n" == self.swap(
            "loading", moving="org/new", victims=[]
        )

    def test_an_unload_alone(self) -> None:
        """So it is where nothing is loaded for it."""
        assert "gpu-1 waits for 1 request on org/old to unload it, for 1m15s\n" == self.swap(
            "draining", target=None, leases=1
        )
        assert "gpu-1 unloads org/old, for 1m15s\n" == self.swap(
            "unloading", target=None, moving="org/old"
        )


class NodesTests(SynchronousTestCase):
    def test_text(self) -> None:
        """The nodes are shown with what is counted of them, and with what is amiss."""
        lines = nodes_text([LARGE, SMALL], NOW).splitlines()
        assert lines[0].endswith("SINCE  LEAKED   UNLOADS  RESTARTS  PINS  ENDPOINT")
        assert lines[1].endswith("512 MiB  7        2         1     http://gpu-large:8000")
        assert "gpu-2 (http://gpu-2:8000) is down: connection refused" == lines[4]

    def test_data(self) -> None:
        """The JSON has all that the daemon tells."""
        data = nodes_data([LARGE, SMALL])
        assert {"nodes": [msgspec.to_builtins(each) for each in (LARGE, SMALL)]} == data
        assert data == json.loads(json.dumps(data))


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
