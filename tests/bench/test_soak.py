"""Five minutes of a fleet's life at once: what must never happen, by the nodes' own journals.

Three nodes hold a third of the models between them. Thirty clients ask for any of them, streamed or
not, some leave before they are served; nodes restart, go away for a while, give memory back late or
not at all, and fail loads. In idle moments the gateway probes models.
"""

import random
from collections import Counter

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from cortexd.testing import SimulatedModel, SimulatedNode
from cortexd.testing.journal import together
from tests.support.fleets import Client, FleetTestCase, InMemoryFleet

SECONDS = 300
STEP = 0.25
CLIENTS = 30
SIZES = {"a": 9_000, "b": 7_000, "c": 6_000, "d": 5_000, "e": 4_000, "f": 4_000}
MEMORY = {"large": 12_000, "medium": 8_000, "small": 5_500}


def simulated_node(clock: Clock, name: str) -> SimulatedNode:
    """Return a node that lists every model that fits it at all, and has one of them loaded."""
    models = [
        SimulatedModel(id=f"acme/{model}{copy}", size_mb=size, load_seconds=2.0 + size / 4_000)
        for model, size in SIZES.items()
        for copy in range(2)
        if size <= MEMORY[name]
    ]
    return SimulatedNode(
        clock,
        name=name,
        memory_mb=MEMORY[name],
        models=models,
        prompt_seconds=0.2,
        token_seconds=0.05,
        starts_loaded=[models[-1].id],
    )


class SoakTests(FleetTestCase):
    def test_five_minutes_of_everything(self) -> None:
        """Nothing is cut, overfilled, bricked or forgotten, and most requests are answered."""
        dice = random.Random(20261123)  # noqa: S311 - reproducible is what it must be
        clock = Clock()
        nodes = {name: simulated_node(clock, name) for name in MEMORY}
        fleet = InMemoryFleet(
            *nodes.values(),
            node_keys={name: {"vram_mb": size} for name, size in MEMORY.items()},
            # The other half is learned.
            models={f"acme/{model}0": {"vram_mb": size} for model, size in SIZES.items()},
            max_wait=10.0,
            queue_timeout=60.0,
            interval=2.0,
            probe=True,
        )
        self.addCleanup(fleet.close)
        fleet.poller.startService()
        models = [f"acme/{model}{copy}" for model in SIZES for copy in range(2)]
        outcomes: Counter[str] = Counter()
        asking: dict[int, tuple[Client, float | None]] = {}

        def ask(number: int) -> None:
            model = dice.choice(models[: 1 + dice.randrange(len(models))])
            client = fleet.chat(
                model=model, stream=dice.random() < 0.7, max_tokens=dice.randint(1, 60)
            )
            patience = clock.seconds() + dice.uniform(0, 20) if dice.random() < 0.1 else None
            asking[number] = (client, patience)

        def look() -> None:
            for number, (client, patience) in list(asking.items()):
                if client.ended:
                    outcomes[f"{client.status} {client.ended}"] += 1
                    del asking[number]
                elif patience is not None and clock.seconds() > patience:
                    fleet.leave(client)
                    outcomes["left"] += 1
                    del asking[number]

        def trouble() -> None:
            node = nodes[dice.choice(list(nodes))]
            match dice.randrange(6):
                case 0:
                    node.restart()
                case 1:
                    Deferred.fromCoroutine(node.vanish(fleet.network, dice.uniform(1, 20)))
                case 2:
                    node.faults.leak_mb_per_unload = dice.choice([0, 0, 500])
                case 3:
                    node.faults.free_delay_seconds = dice.uniform(0, 4)
                case 4:
                    node.faults.deaf_while_loading = dice.random() < 0.5
                case 5:
                    node.faults.fail_load = {dice.choice(models): "simulated weights are damaged"}
                    node.faults.fail_load_times = dict.fromkeys(node.faults.fail_load, 1)

        while clock.seconds() < SECONDS:
            look()
            for number in range(CLIENTS):
                if number not in asking and dice.random() < 0.2:
                    ask(number)
            if dice.random() < STEP / 10 and all(node.process for node in nodes.values()):
                trouble()
            fleet.advance(STEP)
        for _ in range(int(120 / STEP)):
            look()
            fleet.advance(STEP)

        report = together(node.journal.report() for node in nodes.values())
        assert not asking, "requests without an end"
        assert () == report.unended_requests
        assert (0, 0, 0, 0, 0) == (
            report.cut_answers,
            report.overfilled,
            report.wrong_reloads,
            report.stray_requests,
            report.overlapping_loads,
        )
        assert fleet.events("probed"), "no moment was idle"
        assert sum(report.loads.values()) >= 50, "too few swaps to have shown anything"
        assert outcomes["200 clean"] >= 0.6 * (sum(outcomes.values()) - outcomes["left"])
        assert not [line for line in fleet.log_events if line["event"].endswith("_crashed")]
