"""Reads the configuration again while the daemon runs, and lets every part follow it.

First comes all that can fail: the file and the keys are read and checked, new addresses are opened
and new nodes polled. A failure there changes nothing. Then all parts change in one turn of the
reactor, in which no request can see half of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from cortexd.config.changes import ConfigChange
from cortexd.config.listening import all_listenings
from cortexd.config.reading import ConfigError
from cortexd.config.settings import Config
from cortexd.errors import OperationRefused
from cortexd.fleet.states import NodeRemoved
from cortexd.logs import get_logger
from cortexd.parts import Parts
from cortexd.reassembly import (
    Revision,
    changes_by,
    first_polls,
    forget_metrics,
    new_clients,
    reassemble,
    revision_of,
)
from cortexd.scheduling.events import Effect
from cortexd.service.relistening import Listener, Relistened
from cortexd.service.watching import Watch

FORGET_SECONDS: Final = 60.0
"""How often the metrics of nodes that have left are looked at: Prometheus reads the last counts
before they vanish."""

SIGHUP: Final = "signal SIGHUP"
"""Who reloads then, in the audit trail: the system does not say who sent a signal."""

STOPPING: Final = "the daemon is stopping, so it keeps the configuration that it has"
NO_FILE: Final = "the daemon was started without a configuration file (--demo has none)"

log = get_logger("cortexd.reload")


def at_once(read: Callable[[], Revision]) -> Deferred[Revision]:
    """Read in this thread."""
    return succeed(read())


class Reloader(Service):
    """Reloads the configuration of ``parts`` and ``listeners``, which are by their keys.

    ``config`` is in effect. ``read`` returns that of the file, under the command line, and raises
    ConfigError; it is ``None`` where there is no file. ``watch`` refuses listeners that must not be
    open. ``follow`` gives a configuration to the rest
    of the daemon. ``in_thread`` calls a function that may wait for files.
    """

    def __init__(
        self,
        config: Config,
        read: Callable[[], Config] | None,
        parts: Parts,
        listeners: Mapping[str, Listener],
        watch: Watch,
        follow: Callable[[Config], None],
        reactor: Any,
        in_thread: Callable[[Callable[[], Revision]], Deferred[Revision]] = at_once,
    ) -> None:
        self.config = config
        self._read = read
        self._parts = parts
        self._listeners = listeners
        self._watch = watch
        self._let_follow = follow
        self._reactor = reactor
        self._in_thread = in_thread
        self._asked: list[Deferred[Sequence[ConfigChange]]] = []
        self._run: Deferred[None] | None = None
        self._left: set[str] = set()
        self._timer: IDelayedCall | None = None
        parts.dispatcher.listen(self._follow)

    # The course of the service.

    def stopService(self) -> None:
        """Refuse every reload from now on, one under way too; nothing of it has been applied."""
        super().stopService()
        if self._run is not None:
            self._run.cancel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _follow(self, effect: Effect) -> None:
        match effect:
            case NodeRemoved(node):
                self._left.add(node)
                if self._timer is None:
                    self._timer = self._reactor.callLater(FORGET_SECONDS, self._forget)

    def _forget(self) -> None:
        self._timer = None
        self._left = forget_metrics(self._parts, self._left)
        if self._left:
            self._timer = self._reactor.callLater(FORGET_SECONDS, self._forget)

    # What an operator orders.

    def hang_up(self) -> None:
        """Reload because of a SIGHUP; the log says what came of it."""
        audit = self._parts.recorder.audit

        def refused(failure: Failure) -> None:
            failure.trap(OperationRefused)
            audit(SIGHUP, "reload", refused=failure.getErrorMessage())

        self.reload().addCallbacks(
            lambda found: audit(SIGHUP, "reload", changes=len(found)), refused
        )

    def reload(self) -> Deferred[Sequence[ConfigChange]]:
        """Reload the configuration; the Deferred fires with what has changed.

        It fails with OperationRefused if the configuration cannot be used: then nothing has
        changed. A reload that is ordered during another one begins after it, once for all orders
        of that time.
        """
        asked: Deferred[Sequence[ConfigChange]] = Deferred()
        self._asked.append(asked)
        if self._run is None:
            self._run = Deferred.fromCoroutine(self._serve())
            if self._run.called:
                self._run = None
        return asked

    async def plan(self) -> Sequence[ConfigChange]:
        """Return what a reload would change now. Raises OperationRefused."""
        try:
            revision = await self._revision()
            return self._changes(revision)
        except ConfigError as error:
            raise OperationRefused(str(error)) from None

    async def _serve(self) -> None:
        """Reload until no order is left."""
        while self._asked:
            asked, self._asked = self._asked, []
            refused = None
            found: Sequence[ConfigChange] = ()
            try:
                found = await self._reload()
            except (ConfigError, OperationRefused) as error:
                refused = str(error)
            except CancelledError:
                refused = STOPPING
            except Exception:
                log.exception("reload_crashed")
                refused = "internal error; see the log"
            self._parts.recorder.tell_reload([str(each) for each in found], refused)
            for each in asked:
                if refused is None:
                    each.callback(found)
                else:
                    each.errback(OperationRefused(refused))
        self._run = None

    async def _reload(self) -> Sequence[ConfigChange]:
        parts, before = self._parts, self.config
        revision = await self._revision()
        found = self._changes(revision)
        clients = new_clients(parts, before, revision)
        ready: list[Relistened] = []
        try:
            for key, where in all_listenings(revision.config).items():
                ready.append(await self._listeners[key].prepare(where))
            polled = await first_polls(parts, clients)
        except BaseException:
            for each in ready:
                each.give_up()
            raise
        # From here on nothing can fail.
        self.config = revision.config
        for each in ready:
            each.take()
        self._let_follow(revision.config)
        reassemble(parts, before, revision, clients, polled)
        return found

    async def _revision(self) -> Revision:
        """Return what the files say now. Raises ConfigError and OperationRefused."""
        if not self.running:
            raise OperationRefused(STOPPING)
        read = self._read
        if read is None:
            raise OperationRefused(NO_FILE)
        generation = self._parts.ring.generation
        return await self._in_thread(lambda: revision_of(read(), generation))

    def _changes(self, revision: Revision) -> list[ConfigChange]:
        """Return what a revision changes.

        Raises ConfigError for a certificate that is broken, and for a listener that must not be
        open.
        """
        self._watch.admitted(revision.config)
        found = changes_by(self._parts, self.config, revision)
        for key, where in all_listenings(revision.config).items():
            renewal = self._listeners[key].renewal(where)
            if renewal is not None:
                found.append(renewal)
        return found
