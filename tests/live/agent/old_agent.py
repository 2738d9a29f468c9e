"""An agent of an older cortexd: `python -m tests.live.agent.old_agent HOST PORT NODE`.

It greets, reports once and gives signs of life. It knows none of the gateway's orders, so that AMP
answers each of them with UNHANDLED. It prints a line once the gateway has taken its report.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.task import LoopingCall, react
from twisted.protocols import amp

from cortexd.fleet.agents import AgentAbilities, AgentReport, EngineLife
from cortexd.link.contract import BEAT_SECONDS, PROTOCOL, Beat, Hello, Report

VERSION = "0.0.1"


class OldAgent(amp.AMP):
    """The old agent's end of the link."""

    @Beat.responder
    def beat(self) -> dict[str, Any]:
        """Answer a sign of life."""
        return {}


async def serve(reactor: Any, host: str, port: int, node: str) -> None:
    """Greet, report, and stay."""
    agent = await connectProtocol(TCP4ClientEndpoint(reactor, host, port), OldAgent())
    abilities = AgentAbilities(version=VERSION, can_restart=True, can_suspend=True, has_log=True)
    await agent.callRemote(
        Hello, protocol=PROTOCOL, version=VERSION, node=node, abilities=abilities
    )
    report = AgentReport(
        life=EngineLife.ANSWERS, source="engine", memory_total_mb=24_576, memory_free_mb=8_000
    )
    await agent.callRemote(Report, report=report)
    beating = LoopingCall(lambda: agent.callRemote(Beat))
    beating.clock = reactor
    beating.start(BEAT_SECONDS, now=False)
    sys.stdout.write("reported\n")
    sys.stdout.flush()
    await Deferred()


if __name__ == "__main__":
    react(
        lambda reactor: Deferred.fromCoroutine(
            serve(reactor, sys.argv[1], int(sys.argv[2]), sys.argv[3])
        )
    )
