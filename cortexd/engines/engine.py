"""The face of an engine: the kind of server that a node runs.

An engine is sans-I/O and keeps nothing: it says what such a server can do, makes the questions and
orders for it, and reads its answers. A question or an order is an ``Ask``, which the client of a
node carries out. No room above this one asks which engine a node has: it asks for its abilities.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Generic, NoReturn, TypeVar

from cortexd.dialects.nodes.answers import BadAnswer
from cortexd.dialects.nodes.errors import error_words, first_line
from cortexd.dialects.wire.json_values import JsonObject
from cortexd.dialects.wire.profile import NodeKind, Speaks
from cortexd.fleet.affinity import Kept
from cortexd.fleet.outcomes import Outcome
from cortexd.fleet.states import Observation, SystemInfo
from cortexd.sse import ServerSentEvent

T = TypeVar("T")


class Dialect(Enum):
    """A dialect that a server takes requests in."""

    CHAT = "openai"
    """OpenAI's chat completions and their sisters."""

    MESSAGES = "anthropic"
    """Anthropic's Messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """What servers of one engine can do.

    ``is_managed`` says that models are loaded and unloaded there by order; without it they come
    and go as the server likes, and all that it lists are loaded. ``tells_memory`` says that it
    reports its machine's memory, ``counts_requests`` that it reports how many requests run on each
    model, ``counts_tokens`` that it counts the tokens of a Messages request for the model that the
    request names. ``keeps_state`` says that it keeps responses, sessions and files for clients, and
    ``can_sleep`` that it can give back a model's memory without forgetting the model.
    """

    dialects: frozenset[Dialect]
    is_managed: bool = False
    tells_memory: bool = False
    counts_requests: bool = False
    counts_tokens: bool = False
    keeps_state: bool = False
    can_sleep: bool = False

    def kind(self, *, passes_messages: bool = False) -> NodeKind:
        """Return what a server takes; ``passes_messages`` is the operator's wish.

        A server that takes both dialects has Messages requests translated, unless the operator
        wants them passed on as they are.
        """
        if Dialect.CHAT not in self.dialects:
            speaks = Speaks.MESSAGES
        elif passes_messages and Dialect.MESSAGES in self.dialects:
            speaks = Speaks.BOTH
        else:
            speaks = Speaks.CHAT
        return NodeKind(speaks, self.keeps_state)


def _refused(status: int, body: bytes) -> NoReturn:
    words = first_line(error_words(body)) or "no message"
    raise BadAnswer(f"answered with status {status}: {words}")


@dataclass(frozen=True, slots=True)
class Ask(Generic[T]):
    """A question or an order for a server, and what its answer means.

    ``read`` takes the body of an answer with status 200, ``otherwise`` any other status and its
    body; both raise BadAnswer. An order that goes out ``once`` does harm if the server gets it
    twice. A ``body`` is JSON.
    """

    method: str
    path: str
    read: Callable[[bytes], T]
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()
    once: bool = False
    otherwise: Callable[[int, bytes], T] = _refused

    def answer(self, status: int, body: bytes) -> T:
        """Return what an answer means. Raises BadAnswer, with the method and the path in words."""
        asked = f"{self.method} {self.path}"
        if status != 200:
            try:
                return self.otherwise(status, body)
            except BadAnswer as error:
                raise BadAnswer(f"{asked} {error}") from None
        try:
            return self.read(body)
        except BadAnswer as error:
            raise BadAnswer(f"{asked}: {error}") from None


class Engine(ABC):
    """One kind of server; ``name`` is its name in a configuration.

    Callers look at ``abilities`` before they ask: a question that such a server cannot answer
    raises NotImplementedError, for it is a mistake of the caller.
    """

    name: ClassVar[str]
    abilities: ClassVar[Abilities]

    def credentials(self, key: str) -> Mapping[str, str]:
        """Return the headers by which a server knows us: the key as a bearer's, by default."""
        return {"Authorization": f"Bearer {key}"}

    @abstractmethod
    def listing(self) -> Ask[Observation]:
        """Ask for the models that the server has."""

    def system(self) -> Ask[SystemInfo]:
        """Ask for the server's version and memory, where it ``tells_memory``."""
        raise NotImplementedError

    # Of a server that ``is_managed``.

    def status(self, model: str) -> Ask[Outcome]:
        """Ask for the status of one model."""
        raise NotImplementedError

    def load(self, model: str) -> Ask[Outcome]:
        """Order the server to load a model; the answer comes once it is loaded, or not at all."""
        raise NotImplementedError

    def unload(self, model: str) -> Ask[Outcome]:
        """Order the server to drop a model, with every request that runs on it."""
        raise NotImplementedError

    def lost_by_load(self) -> str:
        """Return in words why a server no longer finds a model that it was ordered to load."""
        return "the node has lost it"

    def harm_of_unload(self, version: str, models: int) -> str | None:
        """Return in words why an unload does harm at a server of a version with so many models.

        ``None`` where it does none.
        """
        return None

    def requests_in_flight(self) -> Ask[Mapping[str, int] | None]:
        """Ask how many requests run on each model, where the server ``counts_requests``.

        The answer is ``None`` where this server does not, as an older one.
        """
        raise NotImplementedError

    def running_on(self, counts: Mapping[str, int], model: str) -> int:
        """Return the requests that run on a model, by an answer to ``requests_in_flight``."""
        return counts.get(model, 0)

    # Of requests for models.

    def count_tokens(self, fields: JsonObject, model: str, headers: Mapping[str, str]) -> Ask[int]:
        """Ask how many tokens a Messages request has, where the server ``counts_tokens``.

        ``headers`` are the client's own about the dialect.
        """
        raise NotImplementedError

    @staticmethod
    def kept_by_event(event: ServerSentEvent) -> Sequence[Kept]:
        """Return the state that an event of a stream names, where the server ``keeps_state``."""
        return ()

    @staticmethod
    def kept_by_body(body: bytes) -> Sequence[Kept]:
        """Return the state that a whole answer names, where the server ``keeps_state``."""
        return ()
