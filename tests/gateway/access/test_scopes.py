"""The scope of each route."""

from typing import cast

from twisted.trial.unittest import SynchronousTestCase

from cortexd.gateway.routes import Gateway
from cortexd.gateway.scopes import CONTROL, INFER, LIST, PUBLIC, Routes


class RoutesTests(SynchronousTestCase):
    def test_a_route_states_its_scopes(self) -> None:
        """Without them it cannot be made, and two routes of one handler have the same."""
        routes = Routes()

        def handler() -> None: ...

        with self.assertRaises(TypeError):
            routes.route("/x", methods=["GET"])  # type: ignore[call-arg] # that is the mistake
        routes.route("/x", INFER, methods=["GET"])(handler)
        with self.assertRaises(ValueError):
            routes.route("/y", PUBLIC, methods=["GET"])(handler)

    def test_the_scopes_at_a_path(self) -> None:
        """Where there is no route, no key is needed to learn that."""
        app = cast("Routes", Gateway.app)
        assert INFER == app.scopes_at("POST", "/v1/chat/completions")
        assert LIST == app.scopes_at("HEAD", "/v1/models/a/b")
        assert CONTROL == app.scopes_at("GET", "/unload")
        for method, path in (("GET", "/"), ("GET", "/v1/chat/completions"), ("POST", "/x")):
            assert PUBLIC == app.scopes_at(method, path)
