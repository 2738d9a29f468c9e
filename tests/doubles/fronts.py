"""What stands before a server on its machine: TLS, and a proxy that serves it under a path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request

from tests.doubles.authorities import Served


class Paths(Resource):
    """A proxy that serves each resource under a path, and takes the path from what it passes on.

    It keeps the Host, and answers all other paths as proxies do: with a page and status 404.
    """

    isLeaf = True

    def __init__(self, under: Mapping[bytes, IResource]) -> None:
        super().__init__()
        self._under = under
        self.hosts: list[bytes] = []

    def render(self, request: Request) -> Any:
        """Pass a request on, or refuse it."""
        self.hosts.append(request.getHeader(b"host") or b"")
        for path, resource in self._under.items():
            if request.uri.startswith(path + b"/"):
                request.uri = request.uri[len(path) :]
                request.path = request.path[len(path) :]
                request.prepath, request.postpath = [], request.path.split(b"/")[1:]
                return resource.render(request)
        request.setResponseCode(404)
        request.setHeader(b"content-type", b"text/html")
        return b"<html><title>404 Not Found</title></html>"


class Fronted:
    """A reactor whose listeners have TLS, with the certificate of ``served``."""

    def __init__(self, reactor: Any, served: Served) -> None:
        self._reactor = reactor
        self._served = served

    def listenTCP(self, port: int, factory: Any, *rest: Any, **more: Any) -> Any:
        """Listen at a port, within TLS."""
        wrapped = TLSMemoryBIOFactory(self._served, False, factory, self._reactor)
        return self._reactor.listenTCP(port, wrapped, *rest, **more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)
