from twisted.internet.defer import Deferred

from cortexd.agent.asking import EngineClient
from cortexd.agent.composing import EngineSeen
from cortexd.agent.looking.engine_answers import (
    AGAIN_SECONDS,
    HARDWARE_SECONDS,
    HEALTH_SECONDS,
    EngineAnswers,
)
from cortexd.engines.registry import ENGINES
from tests.agent.machine import PORT, MachineTestCase

SYSTEM_INFO = "/v1/system/info"


class EngineAnswersTests(MachineTestCase):
    def ask(self, is_needed: bool = False) -> EngineSeen:
        """Ask for the health, and then for the hardware if that is due; return what is seen."""
        self.run_until_done(self.answers.ask_health())
        self.run_until_done(self.answers.ask_hardware(is_needed))
        return self.answers.seen

    def test_hardware_once(self) -> None:
        """The expensive question is asked once of each process."""
        for _ in range(3):
            seen = self.ask()
            self.network.advance(AGAIN_SECONDS)

        assert seen.hardware is not None
        assert 1 == seen.hardware.accelerators
        assert 1 == self.asked(SYSTEM_INFO)
        self.answers.forget()
        self.ask()
        assert 2 == self.asked(SYSTEM_INFO)

    def test_hardware_needed(self) -> None:
        """Where nothing else tells the memory, it is asked once a minute."""
        for _ in range(3):
            self.ask(is_needed=True)
        assert 1 == self.asked(SYSTEM_INFO)
        self.network.advance(AGAIN_SECONDS)
        self.ask(is_needed=True)

        assert 2 == self.asked(SYSTEM_INFO)

    def test_hardware_fails(self) -> None:
        """A failure changes nothing, and is no reason to ask at each look."""
        self.node.faults.hang_routes = {SYSTEM_INFO}
        self.run_until_done(self.answers.ask_health())
        asking = Deferred.fromCoroutine(self.answers.ask_hardware(is_needed=False))
        self.network.advance(HARDWARE_SECONDS)
        self.successResultOf(asking)
        self.node.faults.hang_routes = set()
        assert self.ask().hardware is None
        self.network.advance(AGAIN_SECONDS)

        assert self.answers.seen.is_well
        assert self.ask().hardware is not None

    def test_not_while_it_is_not_well(self) -> None:
        """An engine that does not answer its health is asked nothing else."""
        self.run_until_done(self.node.close())

        seen = self.ask(is_needed=True)

        assert (False, "its port refuses connections") == (seen.is_well, seen.reason)
        assert seen.hardware is None

    def test_back_again(self) -> None:
        """An engine that was away is another process, and is asked again."""
        self.ask()
        self.run_until_done(self.node.close())
        self.ask()
        self.run_until_done(self.node.listen(self.network, PORT))
        self.ask()

        assert 1 == self.asked(SYSTEM_INFO)

    def test_health_check(self) -> None:
        """Whoever restarts the engine sees when its process has started, and why it is not well."""
        well = self.run_until_done(self.answers.look())
        self.node.faults.hang = True
        looking = self.answers.look()
        self.network.advance(HEALTH_SECONDS)
        silent = self.successResultOf(looking)

        assert self.node.process is not None
        assert (True, self.node.process.created, "") == (well.is_well, well.created, well.reason)
        assert (False, None) == (silent.is_well, silent.created)
        assert "GET /v1/models: no answer within 5 s" == silent.reason

    def test_server_without_figures(self) -> None:
        """A server that tells no memory is never asked for it."""
        client = EngineClient(self.network, f"http://127.0.0.1:{PORT}", {})
        answers = EngineAnswers(self.network, ENGINES["anthropic"], client)

        self.run_until_done(answers.ask_health())
        self.run_until_done(answers.ask_hardware(is_needed=True))

        assert answers.seen.hardware is None
        assert 0 == self.asked(SYSTEM_INFO)
        self.run_until_done(client.close())
