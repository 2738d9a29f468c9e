"""The commands of ``cortexctl``: their options, their requests and their output."""

from __future__ import annotations

import difflib
from argparse import ArgumentParser, Namespace
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from cortexd import __version__
from cortexd.control.agent_commands import ListAgents
from cortexd.control.contract import (
    LAST_PAGE,
    PROTOCOL,
    CordonNode,
    Events,
    ListLeases,
    ListModels,
    ListNodes,
    ListReplicas,
    LoadModel,
    PinModel,
    PlanLoad,
    Refused,
    UncordonNode,
    UnknownModel,
    UnloadModel,
    UnpinModel,
    Version,
    Why,
)
from cortexd.control.summaries import (
    AgentSummary,
    DecisionSummary,
    EventSummary,
    ModelSummary,
    NodeSummary,
    PlanSummary,
    ReplicaSummary,
)
from cortexd.ctl import options
from cortexd.ctl.client import ControlClient
from cortexd.ctl.engine_logs import logs, logs_options
from cortexd.ctl.enrolling import agent, agent_options
from cortexd.ctl.fleet_output import (
    Status,
    agents_data,
    agents_text,
    nodes_data,
    nodes_text,
    status_data,
    status_text,
)
from cortexd.ctl.journal import event_text, events_data, events_text
from cortexd.ctl.keys import key, key_options, key_problem, printed
from cortexd.ctl.output import (
    Explanation,
    count,
    loading_text,
    models_data,
    models_text,
    plan_data,
    replicas_data,
    replicas_text,
    resident,
    unload_text,
    why_data,
    why_text,
)
from cortexd.ctl.powering import sleep, wake
from cortexd.ctl.probing import probe
from cortexd.ctl.progress import POLL_SECONDS, Done, Tell
from cortexd.ctl.reloading import (
    plan_options,
    plan_problem,
    plan_reload,
    planned_data,
    planned_text,
    reload,
)
from cortexd.ctl.restarting import (
    RESTARTS,
    defrag_options,
    plan_restart,
    restart,
    restart_options,
)
from cortexd.ctl.spans import duration
from cortexd.ctl.usage import ask_usage, usage_data, usage_options, usage_text
from cortexd.fleet.states import ANSWERING_STATES, ReplicaState
from cortexd.text import one_line

EVENTS_AT_ONCE: Final = 200


@dataclass(frozen=True, slots=True)
class Subcommand:
    """One command: its options, its request, and its output.

    ``problem`` says what is wrong with options that are valid each, ``None`` if nothing is.
    ``alone`` returns the answer to command lines that need no daemon, and ``None`` for others.
    """

    summary: str
    ask: Callable[[ControlClient, Namespace, Tell], Awaitable[Any]]
    text: Callable[[Any, float], str]
    data: Callable[[Any], Mapping[str, Any]]
    add_options: Callable[[ArgumentParser], object] = lambda parser: None
    problem: Callable[[Namespace], str | None] = lambda arguments: None
    alone: Callable[[Namespace], Any] = lambda arguments: None


class DaemonVersion(msgspec.Struct, kw_only=True, frozen=True):
    """A daemon's version, process and start; ``started_at`` is in unix seconds."""

    version: str
    pid: int
    started_at: float
    protocol: int


async def carry_out(
    subcommand: Subcommand, client: ControlClient, arguments: Namespace, tell: Tell
) -> Any:
    """Execute a command and return the answer.

    Raises Refused if the daemon rejects the command. If it does not know the model, the message
    suggests the most similar id.
    """
    if subcommand is not SUBCOMMANDS["version"]:
        await client.check_protocol()
    try:
        return await subcommand.ask(client, arguments, tell)
    except UnknownModel as error:
        models: list[ModelSummary] = await client.ask_all(ListModels)
        asked = getattr(arguments, "model", None) or arguments.what
        raise Refused(f"{error}; {_suggestion(asked, [model.id for model in models])}") from error


def _suggestion(asked: str, ids: list[str]) -> str:
    by_lower_case = {model.lower(): model for model in ids}
    nearest = difflib.get_close_matches(asked.lower(), by_lower_case, n=1)
    if nearest:
        return f"did you mean {by_lower_case[nearest[0]]}?"
    return "'cortexctl models' shows the models"


# ---------------------------------------------------------------------- lists


async def ask_version(client: ControlClient, arguments: Namespace, tell: Tell) -> DaemonVersion:
    """Fetch the version of the daemon."""
    return DaemonVersion(**await client.ask(Version))


def version_text(version: DaemonVersion, now: float) -> str:
    """Show the versions of client and daemon."""
    up = duration(now - version.started_at)
    return (
        f"cortexctl {__version__}, control protocol {PROTOCOL}\n"
        f"cortexd {one_line(version.version)}, control protocol {version.protocol}, "
        f"process {version.pid}, up {up}\n"
    )


def version_data(version: DaemonVersion) -> Mapping[str, Any]:
    """Return the daemon's answer and the client's version."""
    own = {"client_version": __version__, "client_protocol": PROTOCOL}
    return {**msgspec.to_builtins(version), **own}


async def ask_status(client: ControlClient, arguments: Namespace, tell: Tell) -> Status:
    """Fetch the whole fleet."""
    first = await client.ask(ListNodes, offset=0)
    nodes: list[NodeSummary] = await client.ask_all(ListNodes)
    return Status(
        unstored=first.get("unstored"),
        notices=first.get("notices") or [],
        nodes=nodes,
        replicas=await _replicas(client, nodes),
        leases=await client.ask_all(ListLeases),
        models=await client.ask_all(ListModels),
    )


async def ask_nodes(client: ControlClient, arguments: Namespace, tell: Tell) -> list[NodeSummary]:
    """Fetch all nodes."""
    return await client.ask_all(ListNodes)


async def ask_agents(client: ControlClient, arguments: Namespace, tell: Tell) -> list[AgentSummary]:
    """Fetch the agents of all nodes."""
    return await client.ask_all(ListAgents)


async def ask_models(client: ControlClient, arguments: Namespace, tell: Tell) -> list[ModelSummary]:
    """Fetch all models."""
    return await client.ask_all(ListModels)


async def ask_resident(
    client: ControlClient, arguments: Namespace, tell: Tell
) -> list[tuple[str, ReplicaSummary]]:
    """Fetch the replicas that are in the nodes' memory."""
    return resident(await _replicas(client, await client.ask_all(ListNodes)))


async def _replicas(
    client: ControlClient, nodes: list[NodeSummary]
) -> dict[str, list[ReplicaSummary]]:
    return {node.name: await client.ask_all(ListReplicas, node=node.name) for node in nodes}


# ---------------------------------------------------------------------- changes


async def load(client: ControlClient, arguments: Namespace, tell: Tell) -> Done:
    """Load a model; with ``--wait`` wait until it is loaded."""
    answer = await client.ask(LoadModel, model=arguments.model, node=arguments.node)
    begun: PlanSummary = answer["plan"]
    if not arguments.wait:
        return Done(loading_text(begun), plan_data(begun))
    tell(loading_text(begun))
    since = client.seconds()
    await _loaded(client, begun)
    seconds = client.seconds() - since
    text = f"loaded, after {duration(seconds)}\n"
    return Done(text, {**plan_data(begun), "seconds": round(seconds, 3)})


async def _loaded(client: ControlClient, plan: PlanSummary) -> None:
    """Wait until a load has ended; Refused if it failed."""
    answering = {state.value for state in ANSWERING_STATES}
    while True:
        replicas: list[ReplicaSummary] = await client.ask_all(
            ListReplicas, node=plan.node, model=plan.model
        )
        # An older daemon ignores the model and sends all replicas.
        replica = next((each for each in replicas if each.model == plan.model), None)
        if replica is None:
            raise Refused(f"{plan.node} does not list {plan.model} any more")
        if replica.state in answering:
            return
        if replica.state == ReplicaState.UNLOADED.value and not replica.is_coming:
            if replica.failures:
                raise Refused(f"{plan.node} could not load {plan.model}: {replica.failure}")
            raise Refused(
                f"{plan.model} is no longer being loaded on {plan.node}; "
                f"'cortexctl events --model {plan.model}' shows why"
            )
        await client.pause(POLL_SECONDS)


async def unload(client: ControlClient, arguments: Namespace, tell: Tell) -> Done:
    """Unload a model."""
    answer = await client.ask(
        UnloadModel, model=arguments.model, node=arguments.node, now=arguments.now
    )
    summary = answer["unload"]
    return Done(unload_text(summary, now=arguments.now), {"unload": msgspec.to_builtins(summary)})


async def pin(client: ControlClient, arguments: Namespace, tell: Tell) -> Done:
    """Pin a model to a node."""
    answer = await client.ask(PinModel, model=arguments.model, node=arguments.node)
    return _pinned(arguments, "is pinned on", answer, pinned=True)


async def unpin(client: ControlClient, arguments: Namespace, tell: Tell) -> Done:
    """Unpin a model from a node."""
    answer = await client.ask(UnpinModel, model=arguments.model, node=arguments.node)
    return _pinned(arguments, "is no longer pinned on", answer, pinned=False)


def _pinned(arguments: Namespace, words: str, answer: Mapping[str, Any], *, pinned: bool) -> Done:
    text = one_line(f"{arguments.model} {words} {arguments.node}")
    data = {"model": arguments.model, "node": arguments.node, "pinned": pinned}
    return _changed(text, data, answer)


def _changed(text: str, data: Mapping[str, Any], answer: Mapping[str, Any]) -> Done:
    """Return the result of a change, with a warning if the daemon could not store it."""
    unstored = answer.get("unstored")
    if unstored is None:
        return Done(f"{text}\n", data)
    warning = one_line(f", but not stored: {unstored}; it is lost at the next restart")
    return Done(f"{text}{warning}\n", {**data, "unstored": unstored})


async def cordon(client: ControlClient, arguments: Namespace, tell: Tell) -> Done:
    """Stop new work for a node."""
    answer = await client.ask(CordonNode, node=arguments.node)
    return _cordoned(arguments.node, "gets no new work", answer, cordoned=True)


async def uncordon(client: ControlClient, arguments: Namespace, tell: Tell) -> Done:
    """Resume new work for a node."""
    answer = await client.ask(UncordonNode, node=arguments.node)
    return _cordoned(arguments.node, "gets work again", answer, cordoned=False)


def _cordoned(node: str, words: str, answer: Mapping[str, Any], *, cordoned: bool) -> Done:
    return _changed(one_line(f"{node} {words}"), {"node": node, "cordoned": cordoned}, answer)


async def drain(client: ControlClient, arguments: Namespace, tell: Tell) -> Done:
    """Stop new work for a node, and wait until its requests have ended."""
    name = arguments.node
    cordoned = await cordon(client, arguments, tell)
    tell(cordoned.text)
    shown: int | None = None
    while True:
        nodes: list[NodeSummary] = await client.ask_all(ListNodes, node=name)
        node = next(each for each in nodes if each.name == name)
        data = {**cordoned.data, "leases": node.leases}
        if not node.leases:
            return Done(one_line(f"{name} is drained: no request is running there") + "\n", data)
        if not node.cordoned:
            raise Refused(f"{name} gets work again: it was uncordoned in the meantime")
        words = one_line(f"{count(node.leases, 'request')} left on {name}") + "\n"
        if not arguments.wait:
            return Done(words, data)
        if shown != node.leases:
            tell(words)
            shown = node.leases
        await client.pause(POLL_SECONDS)


# ---------------------------------------------------------------------- plans and history


async def plan(client: ControlClient, arguments: Namespace, tell: Tell) -> PlanSummary | Done:
    """Fetch the consequences of a load, a restart, or a reload of the configuration."""
    if arguments.change == "reload":
        return await plan_reload(client)
    if arguments.change in RESTARTS:
        return await plan_restart(client, arguments.model)
    answer = await client.ask(PlanLoad, model=arguments.model, node=arguments.node)
    summary: PlanSummary = answer["plan"]
    return summary


async def why(client: ControlClient, arguments: Namespace, tell: Tell) -> Explanation:
    """Fetch the decisions about a model or a node, or for a request."""
    decisions: list[DecisionSummary] = []
    offset = 0
    while True:
        answer = await client.ask(Why, what=arguments.what, offset=offset)
        decisions += answer["items"]
        offset = answer["next"]
        if offset == LAST_PAGE or len(decisions) >= arguments.count:
            return Explanation(
                what=arguments.what,
                request=answer["request"],
                decisions=decisions[: arguments.count],
            )


async def events(client: ControlClient, arguments: Namespace, tell: Tell) -> list[EventSummary]:
    """Fetch the latest entries of the journal; with ``--follow`` also show each new entry."""
    newest = (await client.ask(Events, after=0, limit=0))["last"]
    after = 0 if arguments.model else max(0, newest - arguments.count)
    latest: deque[EventSummary] = deque(maxlen=arguments.count)
    while found := await _events_after(client, after, arguments.model):
        latest.extend(found)
        after = found[-1].number
    if not arguments.follow:
        return list(latest)
    found = list(latest)
    after = max(after, newest)
    while True:
        for event in found:
            tell(event_text(event), msgspec.to_builtins(event))
            after = event.number
        found = await _events_after(client, after, arguments.model)
        if not found:
            await client.pause(POLL_SECONDS)


async def _events_after(client: ControlClient, after: int, model: str | None) -> list[EventSummary]:
    answer = await client.ask(Events, after=after, limit=EVENTS_AT_ONCE, model=model)
    found: list[EventSummary] = answer["items"]
    return found


# ---------------------------------------------------------------------- the commands


def _done_text(done: Done, now: float) -> str:
    return done.text


def _done_data(done: Done) -> Mapping[str, Any]:
    return done.data


def _change(
    summary: str,
    ask: Callable[[ControlClient, Namespace, Tell], Awaitable[Done]],
    add_options: Callable[[ArgumentParser], object],
) -> Subcommand:
    return Subcommand(summary, ask, _done_text, _done_data, add_options)


SUBCOMMANDS: Final[Mapping[str, Subcommand]] = {
    "status": Subcommand(
        "show nodes, loaded models, and waiting and running requests",
        ask_status,
        status_text,
        status_data,
    ),
    "ps": Subcommand("show the loaded models", ask_resident, replicas_text, replicas_data),
    "nodes": Subcommand("show all details of the nodes", ask_nodes, nodes_text, nodes_data),
    "models": Subcommand("show the models of all nodes", ask_models, models_text, models_data),
    "load": _change("load a model", load, options.load_options),
    "unload": _change(
        "unload a model after its requests have ended", unload, options.unload_options
    ),
    "pin": _change("keep a model loaded on a node", pin, options.pin_options),
    "unpin": _change("stop keeping a model loaded on a node", unpin, options.pin_options),
    "cordon": _change("stop new work for a node", cordon, options.node),
    "uncordon": _change("resume new work for a node", uncordon, options.node),
    "drain": _change(
        "stop new work for a node and wait until its requests have ended",
        drain,
        options.drain_options,
    ),
    "probe": _change(
        "find out what the chat template of a loaded model can do", probe, options.probe_options
    ),
    "reload": _change(
        "read the configuration again, and show what changed", reload, options.no_options
    ),
    "agent": _change("enroll agents, list what admits them, and revoke it", agent, agent_options),
    "key": Subcommand(
        "add, list, rotate and revoke keys",
        key,
        _done_text,
        _done_data,
        key_options,
        key_problem,
        printed,
    ),
    "restart": _change(
        "restart a node's engine after its requests have ended, and load its models again",
        restart,
        restart_options,
    ),
    "defrag": _change(
        "get back a node's lost memory: restart its engine as soon as its requests have ended",
        restart,
        defrag_options,
    ),
    "sleep": _change("let a node sleep that nobody uses now", sleep, options.node),
    "wake": _change("wake a node that sleeps", wake, options.node),
    "logs": _change("show the log of a node's engine", logs, logs_options),
    "agents": Subcommand(
        "show the agents beside the engines, and what they see",
        ask_agents,
        agents_text,
        agents_data,
    ),
    "plan": Subcommand(
        "show what a load would do and cost, what a restart would do, or a reload would change",
        plan,
        planned_text,
        planned_data,
        plan_options,
        plan_problem,
    ),
    "why": Subcommand(
        "show the decisions about a model or a node, or for a request, and the reasons",
        why,
        why_text,
        why_data,
        options.why_options,
    ),
    "events": Subcommand(
        "show the journal of the fleet", events, events_text, events_data, options.events_options
    ),
    "usage": Subcommand(
        "show what each key has used", ask_usage, usage_text, usage_data, usage_options
    ),
    "version": Subcommand(
        "show the version of the daemon and of this client",
        ask_version,
        version_text,
        version_data,
    ),
}
