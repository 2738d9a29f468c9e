import json
from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from cortexd.control.summaries import (
    AgentSummary,
    LeaseSummary,
    NodeSummary,
    RestartSummary,
    SwapSummary,
)
from cortexd.ctl.fleet_output import (
    Status,
    agents_data,
    agents_text,
    nodes_data,
    nodes_text,
    status_data,
    status_text,
)
from tests.ctl.test_output import CHAT, EVIL, NOW, OLD, WAITED_FOR, model, replica


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
LEASE = LeaseSummary(request_id="request-1", model="org/chat", node="gpu-large", age_seconds=3.2)
WHOLE = Status(
    nodes=[LARGE, SMALL],
    replicas={"gpu-large": [CHAT, OLD], "gpu-2": []},
    leases=[LEASE],
    models=[model("org/chat", ("gpu-large", "loaded")), WAITED_FOR],
)


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

    def test_repairs(self) -> None:
        """It is said what is planned, why a node is closed, and what takes its memory."""
        restart = RestartSummary(
            number=7, phase="due", reason="stuck: org/chat", age_seconds=5.0, waits_for="org/old"
        )
        due = "gpu-1 is to be restarted, and waits: org/old; because stuck: org/chat\n"
        assert due == self.note(restart=restart, restart_reason="stuck: org/chat")
        words = "gpu-1 takes no work for now: more is loaded there than its memory may hold\n"
        assert words == self.note(closed="more is loaded there than its memory may hold")
        words = (
            "the models on gpu-1 take 512 MiB more than they may: idle ones are unloaded, pinned "
            "ones last\n"
        )
        assert words == self.note(over_budget_mb=512)
        words = "other programs take 2048 MiB of the memory that models may fill on gpu-1\n"
        assert words == self.note(others_mb=2048)

    def test_an_agent_that_has_given_up(self) -> None:
        """It is said why, and what to type."""
        words = (
            "the agent of gpu-1 no longer starts the engine by itself: 5 ends in 60 s; "
            "'cortexctl logs gpu-1' shows the engine's last words, 'cortexctl restart gpu-1' tries "
            "again\n"
        )
        assert words == self.note(engine_given_up="5 ends in 60 s")

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
        assert "gpu-1 loads org/new, for 1m15s, 20s left\n" == self.swap(
            "loading", moving="org/new", victims=[], expected_seconds=20.4
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
        assert lines[0].endswith("SINCE  LEAKED   UNLOADS  RESTARTS  PINS  AGENT     ENDPOINT")
        assert lines[1].endswith(
            "512 MiB  7        2         1     no agent  http://gpu-large:8000"
        )
        assert "gpu-2 (http://gpu-2:8000) is down: connection refused" == lines[4]

    def test_data(self) -> None:
        """The JSON has all that the daemon tells."""
        data = nodes_data([LARGE, SMALL])
        assert {"nodes": [msgspec.to_builtins(each) for each in (LARGE, SMALL)]} == data
        assert data == json.loads(json.dumps(data))


class AgentsTests(SynchronousTestCase):
    def test_text(self) -> None:
        """Agents are shown with what they see, and below what they cannot."""
        agent = AgentSummary(
            node="gpu-1",
            connected=True,
            version="1.2.3",
            peer="10.0.0.9:41000",
            age_seconds=75.0,
            abilities=["restart", "log"],
            life="silent",
            life_reason="it starts",
            source="nvml",
            memory_total_mb=81920,
            memory_free_mb=40960,
            others_mb=2048,
            engine_restarts=2,
            notes=["no driver tells\x1b what each process takes"],
        )
        text = agents_text([agent, AgentSummary(node="gpu-2", connected=False)], NOW)
        header, first, second, _blank, *notes = text.splitlines()
        assert header.split() == [
            "NODE", "AGENT", "PEER", "CONNECTED", "ENGINE", "MEMORY", "OTHERS", "SOURCE",
            "RESTARTS", "CAN",
        ]  # fmt: skip
        assert first.split()[:5] == ["gpu-1", "1.2.3", "10.0.0.9:41000", "1m15s", "silent"]
        assert "40.0/80.0 GiB free  2.0 GiB  nvml    2         restart, log" in first
        assert second.startswith("gpu-2  no agent  -")
        assert notes == [
            "gpu-1: it starts",
            "gpu-1: no driver tells\\x1b what each process takes",
        ]

    def test_data(self) -> None:
        """The JSON has all that the daemon tells."""
        agent = AgentSummary(node="gpu-2", connected=False)
        data = agents_data([agent])
        assert {"agents": [msgspec.to_builtins(agent)]} == data
        assert data == json.loads(json.dumps(data))
