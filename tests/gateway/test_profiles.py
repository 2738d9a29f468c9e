from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.probing.learned import Learned
from cortexd.dialects.wire.profile import MISTRALRS, NodeKind, Profile, Speaks
from cortexd.fleet.fleet import Fleet
from cortexd.fleet.footprints import Footprints
from cortexd.fleet.nodes import ModelTerms, NodeTerms
from cortexd.fleet.states import Observation, ReplicaState
from cortexd.gateway.profiles import Profiles

BLIND = Profile(vision=False)
LOADED = ReplicaState.LOADED


def fleet_of(*names: str) -> Fleet:
    """Return a fleet whose nodes all have the models "seeing", "blind" and an adapter of it."""
    fleet = Fleet(
        [NodeTerms(name, f"http://{name}", 24_576) for name in names],
        {},
        Footprints(lambda node, model: None, {}),
        default_terms=ModelTerms(32),
        now=0.0,
        down_after=2,
        load_timeout=60.0,
    )
    models = dict.fromkeys(("seeing", "blind", "blind::code"), LOADED)
    for name in names:
        fleet.observe(name, Observation(1, models, {"blind::code": "blind"}), 0.0, 0.0)
    return fleet


class ProfilesTests(SynchronousTestCase):
    def test_a_model_nobody_knows_of(self) -> None:
        """Where nothing is said of a model, it has what a mistral.rs node has."""
        profiles = Profiles(fleet_of("a"), {}, {"blind": BLIND})

        assert MISTRALRS is profiles.of("a", "seeing")
        assert (MISTRALRS,) == profiles.of_model("seeing") == profiles.of_model("nowhere")

    def test_a_known_model(self) -> None:
        """What is said of a model holds on each node, and for its adapters."""
        profiles = Profiles(fleet_of("a", "b"), {}, {"blind": BLIND})

        assert BLIND is profiles.of("a", "blind") is profiles.of("b", "blind::code")
        assert (BLIND,) == profiles.of_model("blind")

    def test_an_adapter_of_its_own(self) -> None:
        """What is said of an adapter itself goes before what is said of its base."""
        own = Profile(context_window=4_096)
        profiles = Profiles(fleet_of("a"), {}, {"blind": BLIND, "blind::code": own})

        assert own is profiles.of("a", "blind::code")

    def test_what_nodes_speak(self) -> None:
        """A model has one profile for each kind of node, the same one each time it is asked for."""
        profiles = Profiles(
            fleet_of("a", "b", "c"),
            dict.fromkeys("bc", NodeKind(Speaks.MESSAGES)),
            {"blind": BLIND},
        )
        chat, messages = profiles.of_model("blind")

        assert (Speaks.CHAT, Speaks.MESSAGES) == (chat.speaks, messages.speaks)
        assert not (chat.vision)
        assert not (messages.vision)
        assert chat is profiles.of("a", "blind")
        assert messages is profiles.of("b", "blind") is profiles.of("c", "blind")
        assert [Speaks.CHAT, Speaks.MESSAGES] == [
            profile.speaks for profile in profiles.of_model("seeing")
        ]

    def test_what_nodes_keep(self) -> None:
        """A node that keeps nothing is of another kind, though it speaks the same."""
        kinds = {"a": NodeKind(), "b": NodeKind(Speaks.CHAT, keeps_state=False)}
        profiles = Profiles(fleet_of("a", "b"), kinds, {"blind": BLIND})
        keeping, forgetful = profiles.of_model("blind")

        assert BLIND is keeping is profiles.of("a", "blind")
        assert (True, False) == (keeping.keeps_state, forgetful.keeps_state)
        assert Speaks.CHAT is forgetful.speaks

    def test_a_node_says_that_a_model_is_blind(self) -> None:
        """What a node says holds for the model from then on, on every node and for adapters."""
        profiles = Profiles(fleet_of("a", "b"), {"b": NodeKind(Speaks.BOTH)}, {})

        assert profiles.note_blind("blind::code")
        assert not profiles.note_blind("blind")
        assert [False, False] == [profile.vision for profile in profiles.of_model("blind")]
        assert profiles.of("a", "seeing").vision

    def test_an_adapter_of_its_own_is_blind(self) -> None:
        """What a node says of an adapter holds for it, though it was described apart."""
        own = Profile(context_window=4_096)
        profiles = Profiles(fleet_of("a"), {}, {"blind::code": own})

        assert profiles.note_blind("blind::code")
        assert not profiles.of("a", "blind::code").vision
        assert 4_096 == profiles.of("a", "blind::code").context_window
        assert not profiles.note_blind("blind::code")


class LearnedTests(SynchronousTestCase):
    STRICT = Learned(alternate=False, vision=False, efforts=("low",))

    def test_learned(self) -> None:
        """What a probe found holds for the model and its adapters, until it is forgotten."""
        profiles = Profiles(fleet_of("a"), {}, {})
        profiles.learn("a", "blind", self.STRICT)

        found = profiles.of("a", "blind")
        assert (False, False, ("low",)) == (found.alternate, found.vision, found.efforts)
        assert found is profiles.of("a", "blind::code")
        assert MISTRALRS is profiles.of("a", "seeing")
        profiles.learn("a", "blind", None)
        assert (MISTRALRS,) == profiles.of_model("blind")

    def test_other_nodes(self) -> None:
        """What all probes agree on is assumed of nodes without a probe; else each has its own."""
        profiles = Profiles(fleet_of("a", "b", "c"), {}, {})
        profiles.learn("a", "blind", self.STRICT)
        found = profiles.of("a", "blind")
        assert (found,) == profiles.of_model("blind")

        profiles.learn("b", "blind", Learned(vision=True))
        assert (found, MISTRALRS) == profiles.of_model("blind")
        assert MISTRALRS is profiles.of("b", "blind") is profiles.of("c", "blind")

    def test_equal_abilities(self) -> None:
        """Replicas with equal abilities share a profile, also where one of them was described."""
        described = Profile(alternate=False, vision=False, efforts=("low",))
        profiles = Profiles(fleet_of("a", "b"), {}, {"seeing": described})
        profiles.learn("a", "blind", self.STRICT)
        profiles.learn("b", "blind", Learned(alternate=False, vision=False, efforts=("low",)))

        assert (described,) == profiles.of_model("blind") == profiles.of_model("seeing")

    def test_explicit(self) -> None:
        """What the configuration states of a model wins, and what it leaves out is learned."""
        stated = Profile(alternate=True, context_window=4_096)
        profiles = Profiles(fleet_of("a"), {}, {"blind": stated}, explicit={"blind": ["alternate"]})
        profiles.learn("a", "blind", self.STRICT)
        found = profiles.of("a", "blind")

        assert (True, False, 4_096) == (found.alternate, found.vision, found.context_window)

    def test_kinds(self) -> None:
        """What a probe found and what the node speaks hold together."""
        kinds = {"a": NodeKind(Speaks.CHAT, keeps_state=False)}
        profiles = Profiles(fleet_of("a"), kinds, {})
        profiles.learn("a", "seeing", self.STRICT)
        found = profiles.of("a", "seeing")

        assert (False, False) == (found.keeps_state, found.alternate)
        assert found is profiles.of("a", "seeing")

    def test_blind_although_learned(self) -> None:
        """A node's statement that a model is blind wins over every probe."""
        profiles = Profiles(fleet_of("a", "b"), {}, {})
        profiles.learn("a", "seeing", Learned(vision=True))
        assert profiles.note_blind("seeing")
        profiles.learn("b", "seeing", Learned(vision=True))

        assert [False] == [profile.vision for profile in profiles.of_model("seeing")]
        assert not profiles.note_blind("seeing")
