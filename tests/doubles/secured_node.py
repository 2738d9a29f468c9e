"""A simulated node behind TLS: `python -m tests.doubles.secured_node CERTIFICATE KEY ...`.

For each certificate it listens at a port of its own. The first line on standard output has the
URLs.
A proxy serves the node under PATH too. SIGTERM stops it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import react
from twisted.web.server import Site

from cortexd.testing.demo import single_node
from tests.doubles.authorities import HOST, Certified, Served
from tests.doubles.fronts import Fronted, Paths

PATH = "/gpu/a"


def served(certificate: str, key: str) -> Served:
    """Return the server's side of TLS, from the files of certificate and key."""
    secret = load_pem_private_key(Path(key).read_bytes(), None)
    assert isinstance(secret, ec.EllipticCurvePrivateKey)
    chain = x509.load_pem_x509_certificates(Path(certificate).read_bytes())
    return Served(Certified(secret, tuple(chain)))


async def serve(reactor: Any, *files: str) -> None:
    """Listen, print the URLs, and serve until the reactor stops."""
    node = single_node(reactor, fast=True).resource()
    urls = []
    for certificate, key in zip(files[::2], files[1::2], strict=True):
        site = Site(Paths({PATH.encode(): node, b"": node}), reactor=reactor)
        front: Any = Fronted(reactor, served(certificate, key))
        port = await TCP4ServerEndpoint(front, 0, interface=HOST).listen(site)
        urls.append(f"https://{HOST}:{port.getHost().port}")
    sys.stdout.write(f"{' '.join(urls)}\n")
    sys.stdout.flush()
    stopping: Deferred[None] = Deferred()
    reactor.addSystemEventTrigger("before", "shutdown", stopping.callback, None)
    await stopping


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(serve(reactor, *sys.argv[1:])))
