"""What ``cortexctl`` can be told to do: what each command takes, asks and shows."""

from __future__ import annotations

import difflib
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from cortexd import __version__
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
    DecisionSummary,
    EventSummary,
    ModelSummary,
    NodeSummary,
    PlanSummary,
    ReplicaSummary,
)
from cortexd.ctl.client import ControlClient
from cortexd.ctl.output import (
    Explanation,
    Status,
    count,
    duration,
    event_text,
    events_data,
    events_text,
    loading_text,
    models_data,
    models_text,
    nodes_data,
    nodes_text,
    plan_data,
    plan_text,
    replicas_data,
    replicas_text,
    resident,
    status_data,
    status_text,
    unload_text,
    visible,
    why_data,
    why_text,
)
from cortexd.fleet.states import ANSWERING_STATES, ReplicaState

POLL_SECONDS: Final = 1.0
"""Between two questions about what is waited for."""

EVENTS_AT_ONCE: Final = 200
EVENTS_SHOWN: Final = 50
DECISIONS_SHOWN: Final = 10


class Tell(Protocol):
    """Shows something before the answer is whole: ``text`` to people, ``data`` to programs."""

    def __call__(self, text: str, data: Mapping[str, Any] | None = None) -> None:
        """Show it now. Programs are not shown what has no data."""


@dataclass(frozen=True, slots=True)
class Done:
    """What a change has come to, for people and for programs."""

    text: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Subcommand:
    """One command: its options, what it asks, and how the answer is shown."""

    summary: str
    ask: Callable[[ControlClient, Namespace, Tell], Awaitable[Any]]
    text: Callable[[Any, float], str]
    data: Callable[[Any], Mapping[str, Any]]
    add_options: Callable[[ArgumentParser], object] = lambda parser: None


class DaemonVersion(msgspec.Struct, kw_only=True, frozen=True):
    """What a daemon says of itself; ``started_at`` is in unix seconds."""

    version: str
    pid: int
    started_at: float
    protocol: int


async def carry_out(
    subcommand: Subcommand, client: ControlClient, arguments: Namespace, tell: Tell
) -> Any:
    """Ask what a command asks, and return the answer.

    Refused if the daemon refuses; where it knows no such model the words name the nearest.
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
        return f"the nearest is {by_lower_case[nearest[0]]}"
    return "'cortexctl models' shows the models"


# ---------------------------------------------------------------------- what there is


async def ask_version(client: ControlClient, arguments: Namespace, tell: Tell) -> DaemonVersion:
    """Ask the daemon for its version."""
    return DaemonVersion(**await client.ask(Version))


def version_text(version: DaemonVersion, now: float) -> str:
    """Show both versions."""
    up = duration(now - version.started_at)
    return (
        f"cortexctl {__version__}, control protocol {PROTOCOL}\n"
        f"cortexd {visible(version.version)}, control protocol {version.protocol}, "
        f"process {version.pid}, up {up}\n"
    )


def version_data(version: DaemonVersion) -> Mapping[str, Any]:
    """Return the daemon's answer and the client's own version."""
    own = {"client_version": __version__, "client_protocol": PROTOCOL}
    return {**msgspec.to_builtins(version), **own}


async def ask_status(client: ControlClient, arguments: Namespace, tell: Tell) -> Status:
    """Ask the daemon for its whole fleet."""
    nodes: list[NodeSummary] = await client.ask_all(ListNodes)
    return Status(
        nodes=nodes,
        replicas=await _replicas(client, nodes),
        leases=await client.ask_all(ListLeases),
        models=await client.ask_all(ListModels),
    )


async def ask_nodes(client: ControlClient, arguments: Namespace, tell: Tell) -> list[NodeSummary]:
    """Ask for all nodes."""
    return await client.ask_all(ListNodes)


async def ask_models(client: ControlClient, arguments: Namespace, tell: Tell) -> list[ModelSummary]:
    """Ask for all models."""
    return await client.ask_all(ListModels)


async def ask_resident(
    client: ControlClient, arguments: Namespace, tell: Tell
) -> list[tuple[str, ReplicaSummary]]:
    """Ask for what is in the nodes' memory."""
    return resident(await _replicas(client, await client.ask_all(ListNodes)))


async def _replicas(
    client: ControlClient, nodes: list[NodeSummary]
) -> dict[str, list[ReplicaSummary]]:
    return {node.name: await client.ask_all(ListReplicas, node=node.name) for node in nodes}


# ---------------------------------------------------------------------- what may be changed


async def load(client: ControlClient, arguments: Namespace, tell: Tell) -> Done:
    """Load a model, and with ``--wait`` wait until it is loaded."""
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
    """Wait until a load has ended; Refused if it did not end well."""
    answering = {state.value for state in ANSWERING_STATES}
    while True:
        replicas: list[ReplicaSummary] = await client.ask_all(
            ListReplicas, node=plan.node, model=plan.model
        )
        # An older daemon sends all.
        replica = next((each for each in replicas if each.model == plan.model), None)
        if replica is None:
            raise Refused(f"{plan.node} does not list {plan.model} any more")
        if replica.state in answering:
            return
        if replica.state == ReplicaState.UNLOADED.value and not replica.is_coming:
            if replica.failures:
                raise Refused(f"{plan.node} could not load {plan.model}: {replica.failure}")
            raise Refused(
                f"{plan.model} is not being loaded on {plan.node} any more; "
                f"'cortexctl events --model {plan.model}' shows what happened"
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
    """Keep a model on a node."""
    await client.ask(PinModel, model=arguments.model, node=arguments.node)
    return _pinned(arguments, "is pinned on", pinned=True)


async def unpin(client: ControlClient, arguments: Namespace, tell: Tell) -> Done:
    """Keep a model on a node no longer."""
    await client.ask(UnpinModel, model=arguments.model, node=arguments.node)
    return _pinned(arguments, "is no longer pinned on", pinned=False)


def _pinned(arguments: Namespace, words: str, *, pinned: bool) -> Done:
    text = visible(f"{arguments.model} {words} {arguments.node}") + "\n"
    return Done(text, {"model": arguments.model, "node": arguments.node, "pinned": pinned})


async def cordon(client: ControlClient, arguments: Namespace, tell: Tell) -> Done:
    """Give a node no more work."""
    await client.ask(CordonNode, node=arguments.node)
    return _cordoned(arguments.node, "gets no more work", cordoned=True)


async def uncordon(client: ControlClient, arguments: Namespace, tell: Tell) -> Done:
    """Give a node work again."""
    await client.ask(UncordonNode, node=arguments.node)
    return _cordoned(arguments.node, "gets work again", cordoned=False)


def _cordoned(node: str, words: str, *, cordoned: bool) -> Done:
    return Done(visible(f"{node} {words}") + "\n", {"node": node, "cordoned": cordoned})


async def drain(client: ControlClient, arguments: Namespace, tell: Tell) -> Done:
    """Give a node no more work, and wait until its requests have ended."""
    name = arguments.node
    cordoned = await cordon(client, arguments, tell)
    tell(cordoned.text)
    told: int | None = None
    while True:
        nodes: list[NodeSummary] = await client.ask_all(ListNodes, node=name)
        node = next(each for each in nodes if each.name == name)
        data = {**cordoned.data, "leases": node.leases}
        if not node.leases:
            return Done(visible(f"{name} is drained: no request runs there") + "\n", data)
        if not node.cordoned:
            raise Refused(f"{name} gets work again: somebody has uncordoned it meanwhile")
        words = visible(f"{count(node.leases, 'request')} left on {name}") + "\n"
        if not arguments.wait:
            return Done(words, data)
        if told != node.leases:
            tell(words)
            told = node.leases
        await client.pause(POLL_SECONDS)


# ---------------------------------------------------------------------- what would be, what was


async def plan(client: ControlClient, arguments: Namespace, tell: Tell) -> PlanSummary:
    """Ask what a load would do."""
    answer = await client.ask(PlanLoad, model=arguments.model, node=arguments.node)
    summary: PlanSummary = answer["plan"]
    return summary


async def why(client: ControlClient, arguments: Namespace, tell: Tell) -> Explanation:
    """Ask what was decided about a model or for a request."""
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
    """Ask for the latest entries of the journal; with ``--follow`` tell what comes, for ever."""
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


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise ArgumentTypeError(f"found {text}, expected a number from 1 on")
    return number


def _model(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="the model's id or an alias")


def _node(parser: ArgumentParser) -> None:
    parser.add_argument("node", metavar="NODE", help="the node's name")


def _model_and_maybe_node(parser: ArgumentParser) -> None:
    _model(parser)
    parser.add_argument("--node", metavar="NODE", help="only there (default: wherever it is best)")


def _load_options(parser: ArgumentParser) -> None:
    _model_and_maybe_node(parser)
    parser.add_argument("--wait", action="store_true", help="wait until it is loaded")


def _unload_options(parser: ArgumentParser) -> None:
    _model(parser)
    parser.add_argument("--node", metavar="NODE", help="only there (default: everywhere)")
    parser.add_argument("--now", action="store_true", help="cut the requests that run on it")


def _pin_options(parser: ArgumentParser) -> None:
    _model(parser)
    parser.add_argument("--node", metavar="NODE", required=True, help="where")


def _drain_options(parser: ArgumentParser) -> None:
    _node(parser)
    parser.add_argument(
        "--no-wait", dest="wait", action="store_false", help="only say how many requests are left"
    )


def _plan_options(parser: ArgumentParser) -> None:
    parser.add_argument("change", choices=("load",), metavar="load", help="what would be done")
    _model_and_maybe_node(parser)


def _why_options(parser: ArgumentParser) -> None:
    parser.add_argument("what", metavar="MODEL|REQUEST-ID", help="a model's or a request's id")
    _count_option(parser, "how many decisions to show", DECISIONS_SHOWN)


def _events_options(parser: ArgumentParser) -> None:
    parser.add_argument("-f", "--follow", action="store_true", help="go on as more happens")
    parser.add_argument("--model", metavar="MODEL", help="only what happened to this model")
    _count_option(parser, "how many of the latest to show", EVENTS_SHOWN)


def _count_option(parser: ArgumentParser, words: str, default: int) -> None:
    parser.add_argument(
        "-n",
        "--count",
        type=_count,
        default=default,
        metavar="COUNT",
        help=f"{words} (default: %(default)d)",
    )


SUBCOMMANDS: Final[Mapping[str, Subcommand]] = {
    "status": Subcommand(
        "show nodes, who waits, what is loaded, and the requests at work",
        ask_status,
        status_text,
        status_data,
    ),
    "ps": Subcommand(
        "show the models in the nodes' memory", ask_resident, replicas_text, replicas_data
    ),
    "nodes": Subcommand("show all that is known of the nodes", ask_nodes, nodes_text, nodes_data),
    "models": Subcommand("show the models of all nodes", ask_models, models_text, models_data),
    "load": _change("load a model", load, _load_options),
    "unload": _change("unload a model once its requests have ended", unload, _unload_options),
    "pin": _change("keep a model loaded on a node", pin, _pin_options),
    "unpin": _change("keep a model on a node no longer", unpin, _pin_options),
    "cordon": _change("give a node no more work", cordon, _node),
    "uncordon": _change("give a node work again", uncordon, _node),
    "drain": _change(
        "give a node no more work and wait until its requests have ended", drain, _drain_options
    ),
    "plan": Subcommand(
        "show what a load would do and cost", plan, plan_text, plan_data, _plan_options
    ),
    "why": Subcommand(
        "show what was decided about a model or for a request, and why",
        why,
        why_text,
        why_data,
        _why_options,
    ),
    "events": Subcommand(
        "show what was done to the fleet", events, events_text, events_data, _events_options
    ),
    "version": Subcommand(
        "show the version of the daemon and of this client",
        ask_version,
        version_text,
        version_data,
    ),
}
