"""A key: what the requests with it may do."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.access.callers import ANYBODY, NOBODY, caller_with
from cortexd.access.keys import Key, Scope


class KeyTests(SynchronousTestCase):
    def test_a_key_allows_the_models_that_its_globs_match(self) -> None:
        """Case counts, and without globs a key allows every model."""
        key = Key("alice", "id", "hash", models=("acme/*", "qwen"))

        assert [True, True, False, False] == list(
            map(key.allows, ("acme/chat-8b", "qwen", "qwen3", "Acme/chat-8b"))
        )
        assert Key("bob", "id", "hash").allows("any")

    def test_a_caller_sees_a_model_by_any_of_its_names(self) -> None:
        """An allowed alias makes the model visible; without keys all models are."""
        caller = caller_with(Key("alice", "id", "hash", models=("default",)))

        assert caller.sees(["acme/chat-8b", "default"])
        assert not caller.sees(["acme/chat-8b"])
        assert ANYBODY.sees(["acme/chat-8b"])

    def test_nobody_may_do_anything(self) -> None:
        """A request that was not admitted has no scope, and one without keys has all."""
        assert not any(map(NOBODY.may, Scope))
        assert all(map(ANYBODY.may, Scope))
