"""The daemon's side of the command that shows agents, and what commands about nodes share."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec
from twisted.internet.interfaces import IReactorTime

from cortexd.control.agent_commands import ListAgents
from cortexd.control.answers import Summaries
from cortexd.control.auditing import AuditedControl
from cortexd.control.contract import Refused, UnknownNode, page
from cortexd.control.summaries import AgentSummary
from cortexd.dispatcher import Dispatcher
from cortexd.fleet.nodes import Node
from cortexd.link.connected import Agent, Agents


class AgentsControl(AuditedControl):
    """The part of a ControlProtocol that knows nodes and their agents, and lists these."""

    factory: Any
    _dispatcher: Dispatcher
    _clock: IReactorTime

    @ListAgents.responder
    def list_agents(self, offset: int) -> Mapping[str, Any]:
        """Return a page of nodes with their agents."""
        now = self._clock.seconds()
        nodes = list(self._dispatcher.fleet.nodes.values())
        summarize = partial(agent_summary, self._agents(), now=now)
        items, following = page(Summaries(nodes, summarize), offset)
        return {"items": items, "next": following}

    def _agents(self) -> Agents:
        agents: Agents = self.factory.agents
        return agents

    def _node(self, name: str) -> Node:
        """Return a node; UnknownNode if there is no such node."""
        nodes = self._dispatcher.fleet.nodes
        node = nodes.get(name)
        if node is None:
            raise UnknownNode(f"no node is called {name!r}; the nodes are {', '.join(nodes)}")
        return node

    def _agent(self, node: str) -> Agent:
        """Return the agent of a node; UnknownNode or Refused if there is none."""
        self._node(node)
        agent = self._agents().on(node)
        if agent is None:
            raise Refused(
                f"node {node} has no agent that is connected; 'cortexctl agents' shows those that "
                "are, and docs/agent.md how to run one"
            )
        return agent


def agent_summary(agents: Agents, node: Node, now: float) -> AgentSummary:
    """Return the summary of a node's agent, from its link and its last report."""
    agent, report = agents.on(node.name), node.report
    if agent is None:
        return AgentSummary(node=node.name, connected=False)
    can = agent.abilities
    abilities = {"restart": can.can_restart, "log": can.has_log, "suspend": can.can_suspend}
    summary = AgentSummary(
        node=node.name,
        connected=True,
        version=can.version,
        peer=agent.peer,
        age_seconds=round(max(0.0, now - agent.since), 3),
        abilities=[name for name, has_it in abilities.items() if has_it],
    )
    if report is None:
        return summary
    process = report.process
    return msgspec.structs.replace(
        summary,
        life=report.life.value,
        life_reason=report.reason,
        source=report.source,
        memory_total_mb=report.memory_total_mb,
        memory_free_mb=report.memory_free_mb,
        others_mb=report.others_mb,
        engine_pid=process.pid if process is not None else None,
        engine_rss_mb=process.rss_mb if process is not None else None,
        engine_restarts=process.restarts if process is not None else None,
        notes=list(report.notes),
    )
