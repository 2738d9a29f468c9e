"""A gateway that has nothing but agents: its fleet, its scheduler and its listener for them."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from twisted.internet import reactor as installed

from cortexd.agents.site import AgentSite
from cortexd.config.node_tls import Key, tls_files
from cortexd.config.reading import parse
from cortexd.dispatcher import Dispatcher
from cortexd.link.admission import Enrolments
from cortexd.link.connected import Agents
from cortexd.making import make_scheduler
from cortexd.service.accepting import pace
from cortexd.service.daemon import AGENTS_ACCEPTED
from cortexd.telemetry.metrics import Metrics

NODE = '[[nodes]]\nname = "n{0}"\nendpoint = "http://10.{1}.{2}.1:8080"\nvram_mb = 80000\n'


def serve(folder: Path, agents: int, reactor: Any) -> None:
    """Serve until standard input ends, with the files in a folder; print the port."""
    nodes = "".join(NODE.format(number, *divmod(number, 250)) for number in range(agents))
    scheduler = make_scheduler(parse(nodes, "bench"), reactor.seconds())
    dispatcher = Dispatcher(scheduler, reactor, Metrics())
    site = AgentSite(
        Agents(),
        Enrolments(),
        lambda node: node in scheduler.fleet.nodes,
        dispatcher.dispatch,
        reactor,
        time.time,
    )
    files = tls_files(
        Key("ca", str(folder / "ca.pem")),
        Key("certificate", str(folder / "gateway.pem")),
        Key("key", str(folder / "gateway-key.pem")),
    )
    site.take_files(files, is_ours=False)
    port = reactor.listenTCP(0, site, backlog=4096, interface="127.0.0.1")
    pace(reactor, lambda: AGENTS_ACCEPTED)(port)
    print(port.getHost().port, flush=True)
    reactor.callInThread(lambda: (sys.stdin.read(), reactor.callFromThread(reactor.stop)))
    reactor.run(installSignalHandlers=False)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]), installed)
