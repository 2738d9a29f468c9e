"""Minutes of every trouble at once in virtual time: the short form of ``python -m bench.chaos``."""

import random
from collections import Counter

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from bench.chaos.floods import CHAT, JSON_TYPE, one_letter_messages
from bench.chaos.watch import Deliveries
from cortexd.reassembly import reassemble, revision_of
from cortexd.testing import SimulatedNode
from cortexd.testing.journal import together
from tests.bench.test_soak import MEMORY, SIZES, simulated_node
from tests.support.fleets import Client, FleetTestCase, InMemoryFleet, RawClient

SECONDS = 150
SETTLING_SECONDS = 120
STEP = 0.25
CLIENTS = 20
FATAL = "deadly-prompt-"
MODELS = [f"acme/{model}{copy}" for model in SIZES for copy in range(2)]


class Chaos:
    """A fleet in trouble, its clients, and what must not happen to them."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)  # noqa: S311 - reproducible is what it must be
        self.clock = Clock()
        self.nodes = {name: simulated_node(self.clock, name) for name in MEMORY}
        for node in self.nodes.values():
            node.faults.fatal_words = FATAL.encode()
            node.faults.fatal_down_seconds = 3.0
        self.fleet = InMemoryFleet(
            *self.nodes.values(),
            node_keys={name: {"vram_mb": size} for name, size in MEMORY.items()},
            models={f"acme/{model}0": {"vram_mb": size} for model, size in SIZES.items()},
            max_wait=10.0,
            queue_timeout=60.0,
            upstream_timeout=30.0,
            interval=2.0,
            probe=True,
        )
        self.deliveries = Deliveries()
        self.outcomes: Counter[str] = Counter()
        self.asking: dict[int, tuple[Client, float | None]] = {}
        self.fatal: list[Client] = []
        self.hostile: list[RawClient] = []
        self.reloads = 0

    def ask(self, number: int) -> None:
        """Let a client send a chat; some will leave."""
        dice = self.dice
        client = self.fleet.chat(
            model=dice.choice(MODELS[: 1 + dice.randrange(len(MODELS))]),
            stream=dice.random() < 0.7,
            max_tokens=dice.randint(1, 60),
            headers={"X-Request-ID": f"c-{number}-{self.clock.seconds()}"},
        )
        leaves_at = self.clock.seconds() + dice.uniform(0, 20) if dice.random() < 0.1 else None
        self.asking[number] = (client, leaves_at)

    def look(self) -> None:
        """Note what became of the requests, and what came to the nodes."""
        for number, (client, leaves_at) in list(self.asking.items()):
            if client.ended:
                self.outcomes[f"{client.status} {client.ended}"] += 1
                del self.asking[number]
            elif leaves_at is not None and self.clock.seconds() > leaves_at:
                self.fleet.leave(client)
                self.outcomes["left"] += 1
                del self.asking[number]
        for name, node in self.nodes.items():
            self.deliveries.take(name, list(node.journal), "c-", FATAL)
            node.journal.clear()

    def send_fatal(self, number: int) -> None:
        """Send a prompt that ends each engine that reads it, as often as an SDK tries."""
        for _ in range(3):
            client = self.fleet.chat(f"{FATAL}{number}", model=MODELS[-1], max_tokens=50)
            self.fatal.append(client)
            for _ in range(int(8 / STEP)):
                self.look()
                self.fleet.advance(STEP)
                if client.ended:
                    break

    def trouble(self) -> None:
        """Let a trouble befall a node."""
        node = self.nodes[self.dice.choice(list(self.nodes))]
        if node.process is None:
            return
        dice, faults = self.dice, node.faults
        match dice.randrange(9):
            case 0:
                node.restart()
            case 1:
                Deferred.fromCoroutine(node.vanish(self.fleet.network, dice.uniform(1, 20)))
            case 2:
                faults.leak_mb_per_unload = dice.choice([0, 0, 500])
            case 3:
                faults.deaf_while_loading = dice.random() < 0.5
            case 4:
                faults.fail_load = {dice.choice(MODELS): "simulated weights are damaged"}
                faults.fail_load_times = dict.fromkeys(faults.fail_load, 1)
            case 5:
                self.for_a_while(node, "hang", True, False)
            case 6:
                self.for_a_while(node, "error_responses", 9_999, 0)
            case 7:
                self.for_a_while(node, "reset_after_chunks", 0, None)
            case 8:
                self.for_a_while(node, "eof_after_chunks", dice.randint(1, 20), None)

    def for_a_while(self, node: SimulatedNode, fault: str, on: object, off: object) -> None:
        """Set a fault, and reset it after some seconds."""
        setattr(node.faults, fault, on)
        self.clock.callLater(self.dice.uniform(2, 12), setattr, node.faults, fault, off)

    def flood(self, letters: bytes) -> None:
        """Send what no honest client sends."""
        garbage = self.dice.randbytes(200)
        head = CHAT + JSON_TYPE
        for data in (
            garbage + b"\r\n\r\n",
            head,
            head + b"Content-Length: 99\r\n\r\n{",
            head + b"Content-Length: %d\r\n\r\n" % len(letters) + letters,
        ):
            client = self.fleet.connect()
            self.fleet.send(client, data)
            self.hostile.append(client)

    def reload(self) -> None:
        """Change terms and an alias while everything runs."""
        self.reloads += 1
        before = self.fleet.config
        models = tuple(
            replace(model, aliases=(f"alias-{self.reloads}-{model.id}",)) for model in before.models
        )
        scheduling = replace(before.scheduling, max_wait=10.0 + self.reloads % 3)
        after = replace(before, models=models, scheduling=scheduling)
        reassemble(self.fleet.parts, before, revision_of(after), {}, {})
        self.fleet.config = after

    def run(self) -> None:
        """Let everything happen at once, and then come to rest."""
        dice, letters = self.dice, one_letter_messages(20_000)
        number = 0
        while self.clock.seconds() < SECONDS:
            self.look()
            for client in range(CLIENTS):
                if client not in self.asking and dice.random() < 0.2:
                    self.ask(client)
            if dice.random() < STEP / 6:
                self.trouble()
            if dice.random() < STEP / 15:
                self.reload()
            if dice.random() < STEP / 20:
                self.flood(letters)
            if dice.random() < STEP / 30:
                number += 1
                self.send_fatal(number)
            self.fleet.advance(STEP)
        for _ in range(int(SETTLING_SECONDS / STEP)):
            self.look()
            self.fleet.advance(STEP)


class ChaosTests(FleetTestCase):
    def test_minutes_of_everything(self) -> None:
        """Nothing is cut, overfilled, doubled, spread or forgotten, whatever happens at once."""
        chaos = Chaos(20261130)
        fleet = chaos.fleet
        self.addCleanup(fleet.close)
        fleet.poller.startService()

        chaos.run()

        report = together(node.journal.report() for node in chaos.nodes.values())
        assert {} == chaos.asking, "requests without an end"
        assert () == report.unended_requests
        assert (0, 0, 0, 0, 0) == (
            report.cut_answers,
            report.overfilled,
            report.wrong_reloads,
            report.stray_requests,
            report.overlapping_loads,
        )
        assert 0 == chaos.deliveries.doubled
        assert 0 == chaos.deliveries.spread_fatally, chaos.deliveries.stories()
        assert {"422"} <= {str(client.status) for client in chaos.fatal}
        for client in chaos.hostile:
            assert client.received[9:12] in (b"", b"200", b"400", b"408", b"413", b"503"), (
                client.received
            )
        assert not fleet.fleet.leases
        assert not [line for line in fleet.log_events if line["event"].endswith("_crashed")]
        assert chaos.reloads >= 3, "too few reloads to have shown anything"
        assert chaos.outcomes["200 clean"] >= 150, chaos.outcomes
