"""Carries out the restarts of engines that the scheduler orders, over the links of their agents.

An agent restarts its engine by itself once it has the order, also if its link breaks then. So an
order goes out again, unchanged, when the agent is back: the agent takes it for the same restart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from twisted.application.service import Service
from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from cortexd.fleet.states import NodeRemoved
from cortexd.link.connected import AgentFailed, AgentGone, Agents
from cortexd.logs import get_logger
from cortexd.scheduling.events import Effect
from cortexd.scheduling.repairs.events import RestartDone, RestartEnded, RestartFailed, StartRestart

LOOK_SECONDS: Final = 1.0
"""Time between two looks for an agent whose link has ended."""

GRACE_SECONDS: Final = 5.0
"""How much longer than a restart may take its agent's answer may be under way."""

log = get_logger("cortexd.agents")


End = RestartDone | RestartFailed
"""How a restart that an agent was ordered to make has ended."""


@dataclass(frozen=True, slots=True)
class _Restart:
    """A restart under way: the number of its order, and the Deferred that cancels it."""

    number: int
    course: Deferred[None]


class Repairing(Service):
    """Lets agents restart their engines, each within ``restart_timeout`` seconds.

    ``dispatch`` gets the end of each restart, unless its node has left or this service has stopped.
    ``boot_id`` differs from that of every earlier process, whose numbers may be the same. ``ended``
    has the last planned restart of each node that is over.
    """

    def __init__(
        self,
        dispatch: Callable[[End], None],
        agents: Agents,
        clock: IReactorTime,
        boot_id: str,
        restart_timeout: float,
    ) -> None:
        self.restart_timeout = restart_timeout
        self.ended: dict[str, RestartEnded] = {}
        self._dispatch = dispatch
        self._agents = agents
        self._clock = clock
        self._boot_id = boot_id
        self._restarts: dict[str, _Restart] = {}

    def stopService(self) -> None:
        """Await no more answers; agents go on with what they were ordered."""
        super().stopService()
        for node in list(self._restarts):
            self._forget(node)

    def carry_out(self, effect: Effect) -> None:
        """Begin a restart that is ordered, and end those of a node that leaves."""
        match effect:
            case StartRestart(node, number):
                if self.running and self._under_way(node) != number:
                    self._begin(effect)
            case RestartEnded(node):
                self.ended[node] = effect
            case NodeRemoved(node):
                self._forget(node)
                self.ended.pop(node, None)

    def _under_way(self, node: str) -> int | None:
        restart = self._restarts.get(node)
        return restart.number if restart is not None else None

    def _begin(self, effect: StartRestart) -> None:
        self._forget(effect.node)
        course = Deferred.fromCoroutine(self._restart(effect))
        if not course.called:
            self._restarts[effect.node] = _Restart(effect.number, course)
        course.addErrback(lambda failure: log.error("restart_crashed", failure=failure))

    def _forget(self, node: str) -> None:
        restart = self._restarts.pop(node, None)
        if restart is not None:
            restart.course.cancel()

    async def _restart(self, effect: StartRestart) -> None:
        node, number = effect.node, effect.number
        try:
            seconds = await self._restarted(effect)
        except CancelledError:
            return
        except AgentFailed as error:
            end: End = RestartFailed(node, number, str(error))
        except Exception:
            log.exception("restart_crashed", node=node, number=number)
            end = RestartFailed(node, number, "internal error; see the log")
        else:
            end = RestartDone(node, number, seconds)
        self._restarts.pop(node, None)
        self._dispatch(end)

    async def _restarted(self, effect: StartRestart) -> float:
        """Return how long the restart took; AgentFailed says why there was none."""
        node, order = effect.node, f"{self._boot_id}-{effect.number}"
        limit = self.restart_timeout
        deadline = self._clock.seconds() + limit
        lost = f"node {node} has no agent that could restart its engine"
        is_first = True  # a link that flaps would fill the log with the others
        while (left := deadline - self._clock.seconds()) > 0:
            agent = self._agents.on(node)
            if agent is not None:
                if is_first:
                    log.info("restart_ordered", node=node, order=order, reason=effect.reason)
                answer = agent.restart(order, effect.reason, left)
                answer.addTimeout(left + GRACE_SECONDS, self._clock)
                try:
                    return await answer
                except defer.TimeoutError:
                    raise AgentFailed(f"its agent has not answered within {limit:g} s") from None
                except AgentGone as error:
                    if is_first:
                        log.warning("restart_unheard", node=node, order=order, reason=str(error))
                    is_first = False
                    lost = f"the link to its agent ended ({error}), and the agent has not come back"
            await deferLater(self._clock, min(LOOK_SECONDS, left))
        raise AgentFailed(f"{lost} within {limit:g} s")
