"""For all globs of a key: nothing that a client with it can get names a model that they hide."""

import json
from fnmatch import fnmatchcase

from hypothesis import given, settings
from hypothesis import strategies as st

from cortexd.access.keys import Scope
from cortexd.testing import SimulatedModel
from tests.access.making import given as key_with
from tests.support.fleets import FleetTestCase

ALIASES = {"org/alpha": ("quick-one", "default"), "lab/gamma": ("quick-three",)}
MODELS = ("org/alpha", "org/beta", "lab/gamma", "lab/delta")
NAMES = {model: (model, *ALIASES.get(model, ())) for model in MODELS}
ROUTES = ("/v1/models", "/running", "/api/ps", "/ready", "/v1/files", "/unload", "/v1/models/none")
CHAT = "/v1/chat/completions"
globs = st.lists(
    st.sampled_from(["org/*", "*ta", "quick-one", "quick-three", "lab/[dg]*", "none", "default"]),
    min_size=1,
    max_size=3,
)


class AnyKeyTests(FleetTestCase):
    def test_no_answer_names_a_hidden_model(self) -> None:
        """Lists, errors, headers and answers under each name that the client may try."""
        models = [SimulatedModel(id=model, loaded=model[-1] != "a") for model in MODELS[:3]]
        fleet = self.fleet(
            self.node("a", *models),
            self.node("b", MODELS[3], MODELS[0]),
            models={model: {"aliases": list(names)} for model, names in ALIASES.items()},
        )

        @settings(max_examples=12, deadline=None, database=None)
        @given(globs)
        def check(allowed: list[str]) -> None:
            key = key_with("alice", models=tuple(allowed), scopes=frozenset(Scope))
            fleet.parts.ring.take([key.key])
            hidden = {
                name
                for names in NAMES.values()
                if not any(fnmatchcase(name, glob) for name in names for glob in allowed)
                for name in names
            } - {"default"}
            clients = [("", fleet.get(path, **key.bearer)) for path in ROUTES]
            for name in [name for names in NAMES.values() for name in names]:
                body = {"model": name, "messages": [{"role": "user", "content": "hi"}]}
                headers = {**key.bearer, "x-request-id": "one"}
                clients.append((name, fleet.request("POST", CHAT, json=body, headers=headers)))
                clients.append((name, fleet.get(f"/v1/models/{name}", **key.bearer)))
            fleet.advance(5.0)
            for name, client in clients:
                assert client.status is not None
                words = client.body.decode() + json.dumps(dict(client.headers))
                if client.status in (403, 404):
                    words = words.replace(f"'{name}'", "")
                assert not [other for other in hidden if other in words], (allowed, name, words)

        check()
