"""What holds for each engine that a configuration can name."""

from collections.abc import Callable
from dataclasses import fields

from twisted.trial.unittest import SynchronousTestCase

from cortexd.engines.engine import Abilities, Dialect, Engine
from cortexd.engines.registry import BY_DIALECT, ENGINES
from cortexd.sse import ServerSentEvent

QUESTIONS: dict[str, tuple[Callable[[Engine], object], ...]] = {
    "is_managed": (
        lambda engine: engine.status("m"),
        lambda engine: engine.load("m"),
        lambda engine: engine.unload("m"),
    ),
    "tells_memory": (lambda engine: engine.system(), lambda engine: engine.hardware()),
    "counts_requests": (lambda engine: engine.requests_in_flight(),),
    "counts_tokens": (lambda engine: engine.count_tokens({"messages": []}, "m", {}),),
}
STATE_EVENT = ServerSentEvent(b'{"session_id":"s"}', b"message")
STATE_BODY = b'{"session_id":"s"}'


class RegistryTests(SynchronousTestCase):
    def test_names(self) -> None:
        """Each engine goes by its own name, and each dialect alone means one of them."""
        assert ["mistralrs", "anthropic"] == list(ENGINES)
        assert [name for name, engine in ENGINES.items() if engine.name != name] == []
        assert ["mistralrs", "anthropic"] == [BY_DIALECT[each].name for each in Dialect]

    def test_every_engine_can_be_asked_for_its_models(self) -> None:
        """And speaks a dialect in which its models answer."""
        for engine in ENGINES.values():
            assert ("GET", None) == (engine.listing().method, engine.listing().body)
            assert engine.abilities.dialects, engine.name

    def test_abilities_are_true(self) -> None:
        """An engine has the questions of its abilities, and of no other."""
        for name, engine in ENGINES.items():
            for ability, asks in QUESTIONS.items():
                for ask in asks:
                    if getattr(engine.abilities, ability):
                        assert ask(engine), (name, ability)
                    else:
                        with self.assertRaises(NotImplementedError):
                            ask(engine)
            keeps = engine.abilities.keeps_state
            assert keeps == bool(engine.kept_by_event(STATE_EVENT)), name
            assert keeps == bool(engine.kept_by_body(STATE_BODY)), name

    def test_every_ability_is_shown(self) -> None:
        """Each ability is one of those above, or is read where it is asked for."""
        shown = {*QUESTIONS, "keeps_state", "dialects", "answers_responses"}
        assert {"can_sleep"} == {field.name for field in fields(Abilities)} - shown

    def test_orders_go_out_once(self) -> None:
        """No engine's load or unload goes out a second time; a question may."""
        for engine in ENGINES.values():
            if engine.abilities.is_managed:
                orders = [engine.load("m"), engine.unload("m"), engine.status("m")]
                assert [True, True, False] == [order.once for order in orders]
