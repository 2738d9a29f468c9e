"""Who used the control socket, in words, for the audit trail.

The name of a user may come from a directory in the network, which may be slow or silent. The
machine's own file of users is read at once. A name that is not in it is looked up in a thread as
soon as the user connects; until the answer is there, the number stands alone.
"""

from __future__ import annotations

import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.protocols import amp
from twisted.python.failure import Failure

from cortexd.control.socket import PeerCredentials
from cortexd.logs import get_logger

PASSWD: Final = Path("/etc/passwd")
MOST_NAMES: Final = 1000
"""How many users are remembered."""

log = get_logger("cortexd.control")


class Audit(Protocol):
    """Records a change that an operator commanded, as ``Recorder.audit`` does."""

    def __call__(self, actor: str, command: str, **fields: Any) -> None:
        """Record it."""


def unaudited(actor: str, command: str, **fields: object) -> None:
    """Record nothing."""


class Users:
    """The names of users, by their numbers. ``in_thread`` calls a function that may wait."""

    def __init__(
        self,
        in_thread: Callable[[Callable[[], str]], Deferred[str]] | None = None,
        passwd: Path = PASSWD,
        look_up: Callable[[int], str] = lambda uid: pwd.getpwuid(uid).pw_name,
    ) -> None:
        self._in_thread = in_thread
        self._passwd = passwd
        self._look_up = look_up
        self._names: dict[int, str] = {}
        self._asked: set[int] = set()

    def meet(self, uid: int) -> None:
        """Find out the name of a user who may soon change something."""
        if uid in self._names or uid in self._asked:
            return
        if name := self._own(uid):
            self._found(name, uid)
        elif self._in_thread is not None:
            self._asked.add(uid)
            asking = self._in_thread(lambda: self._look_up(uid))
            asking.addCallback(self._found, uid)
            asking.addErrback(self._not_found, uid)

    def actor(self, uid: int) -> str:
        """Return a user in words: ``uid 1000 (alice)``, or without a name that is not known."""
        self.meet(uid)
        name = self._names.get(uid)
        return f"uid {uid} ({name})" if name else f"uid {uid}"

    def _own(self, uid: int) -> str:
        """Return the name that the machine's own file has for a number, or an empty one."""
        try:
            lines = self._passwd.read_text("utf-8", "replace").splitlines()
        except OSError:
            return ""
        for line in lines:
            name, _, rest = line.partition(":")
            if rest.split(":")[1:2] == [str(uid)]:
                return name
        return ""

    def _found(self, name: str, uid: int) -> None:
        self._asked.discard(uid)
        if len(self._names) >= MOST_NAMES:
            self._names.clear()
        self._names[uid] = name

    def _not_found(self, failure: Failure, uid: int) -> None:
        self._asked.discard(uid)
        log.debug("user_unknown", peer_uid=uid, reason=failure.getErrorMessage())


class AuditedControl(amp.AMP):
    """The part of a ControlProtocol that knows its ``peer`` and records what the peer changes."""

    peer: PeerCredentials
    audit: Audit
    users: Users

    def who(self) -> dict[str, int]:
        """Return the peer as fields of the log."""
        return {"peer_pid": self.peer.pid, "peer_uid": self.peer.uid, "peer_gid": self.peer.gid}

    def changed(self, command: str, **fields: Any) -> None:
        """Record a change that the peer commanded."""
        self.audit(self.users.actor(self.peer.uid), command, logged=self.who(), **fields)
