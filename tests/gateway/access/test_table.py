"""Every route, with every scope and every kind of key: who may, and who may not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from cortexd.access.keys import Scope
from cortexd.gateway.routes import UNLOAD_HEADER, Gateway
from tests.access.making import Given, bearer, given, rotated
from tests.support.fleets import STARTED_AT, Client, FleetTestCase, InMemoryFleet

INFER, READ, CONTROL = Scope.INFER, Scope.READ, Scope.CONTROL
TURNS = {"model": "acme/chat", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
INPUT = {"model": "acme/chat", "input": "hi"}
PROMPT = {"model": "acme/chat", "prompt": "hi"}
SESSION = {"messages": TURNS["messages"]}


class Row(NamedTuple):
    """What a route needs: one of ``scopes``, none for a public route.

    ``status`` is that of a caller with the scope, ``hidden`` that of one whose key allows other
    models only. The model of these tests takes no embeddings, pictures or speech.
    """

    scopes: set[Scope]
    status: int
    hidden: int
    body: object = None


TABLE: Mapping[tuple[str, str], Row] = {
    ("GET", "/"): Row(set(), 200, 200),
    ("GET", "/health"): Row(set(), 200, 200),
    ("GET", "/ready"): Row(set(), 200, 200),
    ("GET", "/v1/models"): Row({INFER, READ}, 200, 200),
    ("GET", "/v1/models/acme/chat"): Row({INFER, READ}, 200, 404),
    ("GET", "/api/models/acme/chat/load-status"): Row({INFER, READ}, 200, 404),
    ("GET", "/api/events"): Row({INFER, READ}, 200, 200),
    ("GET", "/running"): Row({READ}, 200, 200),
    ("GET", "/api/ps"): Row({READ}, 200, 200),
    ("POST", "/v1/chat/completions"): Row({INFER}, 200, 403, TURNS),
    ("POST", "/v1/completions"): Row({INFER}, 200, 403, PROMPT),
    ("POST", "/v1/embeddings"): Row({INFER}, 400, 403, INPUT),
    ("POST", "/v1/images/generations"): Row({INFER}, 400, 403, PROMPT),
    ("POST", "/v1/audio/speech"): Row({INFER}, 400, 403, INPUT),
    ("POST", "/v1/messages"): Row({INFER}, 200, 403, TURNS),
    ("POST", "/v1/messages/count_tokens"): Row({INFER}, 200, 403, TURNS),
    ("POST", "/v1/responses"): Row({INFER}, 200, 403, INPUT),
    ("POST", "/v1/responses/input_tokens"): Row({INFER}, 200, 403, INPUT),
    ("GET", "/v1/responses/resp_0"): Row({INFER}, 404, 404),
    ("DELETE", "/v1/responses/resp_0"): Row({INFER}, 404, 404),
    ("GET", "/v1/responses/resp_0/input_items"): Row({INFER}, 404, 404),
    ("POST", "/v1/responses/resp_0/cancel"): Row({INFER}, 404, 404),
    ("GET", "/v1/sessions/s"): Row({INFER}, 404, 404),
    ("DELETE", "/v1/sessions/s"): Row({INFER}, 404, 404),
    ("PUT", "/v1/sessions/s"): Row({INFER}, 200, 200, SESSION),
    ("GET", "/v1/files"): Row({INFER}, 200, 200),
    ("POST", "/v1/files"): Row({INFER}, 400, 400, SESSION),
    ("GET", "/v1/files/f"): Row({INFER}, 404, 404),
    ("DELETE", "/v1/files/f"): Row({INFER}, 404, 404),
    ("GET", "/v1/files/f/content"): Row({INFER}, 404, 404),
    ("GET", "/v1/containers/c/files"): Row({INFER}, 404, 404),
    ("GET", "/v1/containers/c/files/f"): Row({INFER}, 404, 404),
    ("GET", "/v1/containers/c/files/f/content"): Row({INFER}, 404, 404),
    ("POST", "/v1/agent/approvals/a"): Row({INFER}, 404, 404, {}),
    # Last, because the others need the models.
    ("GET", "/unload"): Row({CONTROL}, 200, 200),
    ("POST", "/api/models/unload"): Row({CONTROL}, 200, 200),
    ("POST", "/api/models/unload/acme/chat"): Row({CONTROL}, 200, 404),
}


def routes() -> Iterator[tuple[str, str]]:
    """Yield method and rule of each route of the application, a HEAD as its GET."""
    for rule in Gateway.app.url_map.iter_rules():
        for method in (rule.methods or set()) - {"HEAD"}:
            yield method, rule.rule


def matches(route: tuple[str, str], line: tuple[str, str]) -> bool:
    """Return whether a line of the table is an example of a route."""
    parts = re.split(r"(<[^>]+>)", route[1])
    patterns = [_pattern(part) if part.startswith("<") else re.escape(part) for part in parts]
    return route[0] == line[0] and re.fullmatch("".join(patterns), line[1]) is not None


def _pattern(variable: str) -> str:
    if words := re.match(r"<any\((.*)\):", variable):
        return words[1]
    return ".+" if variable.startswith("<model_id:") else "[^/]+"


class TableTests(FleetTestCase):
    def made(self, *keys: Given) -> InMemoryFleet:
        node = self.node("a", "acme/chat", "other/chat")
        return self.fleet(node, keys=[each.key for each in keys])

    def ask(self, fleet: InMemoryFleet, line: tuple[str, str], key: str | None) -> Client:
        method, path = line
        headers = {UNLOAD_HEADER: "unload", **(bearer(key) if key is not None else {})}
        body = TABLE[line].body
        client = fleet.request(
            method, path, json=body, body=None if method == "GET" or body else b"", headers=headers
        )
        if not client.ended:
            fleet.advance(30.0)
        return client

    def check(self, fleet: InMemoryFleet, key: str | None, *, others: int) -> None:
        """Check that a key opens the public routes alone; the rest has this status."""
        for line, row in TABLE.items():
            client = self.ask(fleet, line, key)
            assert (others if row.scopes else row.status) == client.status, (line, client.text())

    def test_every_route_has_its_line(self) -> None:
        """A new route fails this test until the table says who may use it."""
        for route in routes():
            lines = [line for line in TABLE if matches(route, line)]
            assert lines, f"the table lacks {route}"
        for line in TABLE:
            assert any(matches(route, line) for route in routes()), f"no route for {line}"

    def test_each_scope_alone(self) -> None:
        """A key opens the routes of its scope and the public ones; the others are 403."""
        keys = {scope: given(str(scope), scopes=frozenset({scope})) for scope in Scope}
        fleet = self.made(*keys.values())
        for scope, key in keys.items():
            for line, row in TABLE.items():
                status = row.status if not row.scopes or scope in row.scopes else 403
                client = self.ask(fleet, line, key.text)
                assert status == client.status, (scope, line, client.text())

    def test_no_scope_and_all_scopes(self) -> None:
        """The first opens the public routes alone, the second all."""
        none, every = given("none", scopes=frozenset()), given("all", scopes=frozenset(Scope))
        fleet = self.made(none, every)
        self.check(fleet, none.text, others=403)
        for line, row in TABLE.items():
            assert row.status == self.ask(fleet, line, every.text).status, line

    def test_without_a_valid_key(self) -> None:
        """All but the public routes are 401."""
        alice, late = given("alice", scopes=frozenset(Scope)), given("late", expires=STARTED_AT)
        fleet = self.made(alice, late)
        wrong = alice.text[:-1] + ("b" if alice.text[-1] == "a" else "a")
        for text in (None, "", "x", alice.text[:-1], wrong, given().text, late.text):
            self.check(fleet, text, others=401)

    def test_a_revoked_key(self) -> None:
        """It opens nothing from the next request on."""
        alice, bob = given("alice", scopes=frozenset(Scope)), given("bob")
        fleet = self.made(alice, bob)
        assert 200 == self.ask(fleet, ("GET", "/running"), alice.text).status
        fleet.parts.ring.take([bob.key])
        self.check(fleet, alice.text, others=401)

    def test_a_rotated_key(self) -> None:
        """Its former text opens what the new one does, and nothing once its time is over."""
        before = given("alice", scopes=frozenset(Scope))
        after = rotated(before, STARTED_AT + 1000.0)
        fleet = self.made(after)
        for line, row in TABLE.items():
            for text in (before.text, after.text):
                assert row.status == self.ask(fleet, line, text).status, line
        fleet.advance(1000.0)
        self.check(fleet, before.text, others=401)
        assert 200 == self.ask(fleet, ("GET", "/running"), after.text).status

    def test_a_model_that_the_key_does_not_allow(self) -> None:
        """It is not there, and a request to it is refused."""
        key = given("other", scopes=frozenset(Scope), models=("other/*",))
        fleet = self.made(key)
        for line, row in TABLE.items():
            client = self.ask(fleet, line, key.text)
            assert row.hidden == client.status, (line, client.text())

    def test_scopes_are_the_only_way(self) -> None:
        """The scopes that the routes state are those of the table."""
        app: Any = Gateway.app
        for (method, path), row in TABLE.items():
            assert row.scopes == app.scopes_at(method, path)

    def test_what_is_no_route(self) -> None:
        """Whoever asks learns that, with a key or without."""
        alice = given("alice")
        fleet = self.made(alice)
        for key in (None, alice.text, given().text):
            headers = bearer(key) if key else {}
            assert 404 == fleet.request("GET", "/v1/nothing", headers=headers).status
            wrong = fleet.request("DELETE", "/v1/models", headers=headers)
            assert (405, "GET, HEAD") == (wrong.status, wrong.headers["allow"])
