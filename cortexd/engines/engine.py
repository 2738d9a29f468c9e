"""The interface of an engine: the kind of server that a node runs.

An engine is sans-I/O and stateless: it states the server's abilities, makes questions and orders
for the server, and reads the answers. A question or an order is an ``Ask``, which a node's client
sends. Rooms above this one check an engine's abilities and never its name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Generic, NoReturn, TypeVar

from cortexd.dialects.nodes.answers import BadAnswer
from cortexd.dialects.nodes.errors import error_words, first_line
from cortexd.dialects.wire.json_values import JsonObject
from cortexd.dialects.wire.profile import NodeKind, Speaks
from cortexd.fleet.affinity import Kept
from cortexd.fleet.outcomes import Outcome
from cortexd.fleet.states import Hardware, Observation, SystemInfo
from cortexd.sse import ServerSentEvent
from cortexd.text import scrubbed

T = TypeVar("T")


class Dialect(Enum):
    """A dialect of the requests that a server accepts."""

    CHAT = "openai"
    """OpenAI's chat completions and their sisters."""

    MESSAGES = "anthropic"
    """Anthropic's Messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """The abilities of an engine's servers.

    - ``is_managed``: the server loads and unloads models by order. Any other server loads models by
      itself, and every model in its list is loaded.
    - ``tells_memory``: it reports its machine's memory.
    - ``counts_requests``: it reports how many requests run on each model.
    - ``counts_tokens``: it counts a Messages request's tokens for the model that the request names.
    - ``answers_responses``: it answers OpenAI's responses itself.
    - ``keeps_state``: it stores responses, sessions and files for clients.
    - ``can_sleep``: it can free a model's memory without forgetting the model.
    """

    dialects: frozenset[Dialect]
    is_managed: bool = False
    tells_memory: bool = False
    counts_requests: bool = False
    counts_tokens: bool = False
    answers_responses: bool = False
    keeps_state: bool = False
    can_sleep: bool = False

    def kind(self, *, passes_messages: bool = False, passes_responses: bool = False) -> NodeKind:
        """Return the node kind of a server; the arguments are the operator's settings.

        For a server that accepts both dialects we translate Messages requests to chat, unless the
        operator wants them passed on unchanged. The same is true of requests for responses.
        """
        if Dialect.CHAT not in self.dialects:
            speaks = Speaks.MESSAGES
        elif passes_messages and Dialect.MESSAGES in self.dialects:
            speaks = Speaks.BOTH
        else:
            speaks = Speaks.CHAT
        return NodeKind(speaks, self.keeps_state, passes_responses and self.answers_responses)


def _refused(status: int, body: bytes) -> NoReturn:
    words = scrubbed(first_line(error_words(body))) or "no message"
    raise BadAnswer(f"answered with status {status}: {words}")


@dataclass(frozen=True, slots=True)
class Ask(Generic[T]):
    """A question or an order for a server, and the readers of its answer.

    ``read`` parses the body of an answer with status 200, ``otherwise`` any other status and its
    body; both raise BadAnswer. ``once`` marks an order that does harm if the server receives it
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
        """Return the parsed answer. Raises BadAnswer, whose message names method and path."""
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

    Callers check ``abilities`` first: a method that the server does not support raises
    NotImplementedError, because the call is a bug in the caller.
    """

    name: ClassVar[str]
    abilities: ClassVar[Abilities]

    def credentials(self, key: str) -> Mapping[str, str]:
        """Return the headers that authenticate us: the key as a bearer token, by default."""
        return {"Authorization": f"Bearer {key}"}

    @abstractmethod
    def listing(self) -> Ask[Observation]:
        """Ask for the server's models."""

    def health(self) -> Ask[Any]:
        """Ask whether the server answers, by its cheapest route; only its status counts."""
        return self.listing()

    def system(self) -> Ask[SystemInfo]:
        """Ask for the server's version and memory, if it ``tells_memory``."""
        raise NotImplementedError

    def hardware(self) -> Ask[Hardware]:
        """Ask the same, with the number of its accelerators, if it ``tells_memory``."""
        raise NotImplementedError

    # For a server that ``is_managed``.

    def status(self, model: str) -> Ask[Outcome]:
        """Ask for the status of one model."""
        raise NotImplementedError

    def load(self, model: str) -> Ask[Outcome]:
        """Order the server to load a model; the answer arrives after the load, or never."""
        raise NotImplementedError

    def unload(self, model: str) -> Ask[Outcome]:
        """Order the server to unload a model, which cuts off every request that runs on it."""
        raise NotImplementedError

    def lost_by_load(self) -> str:
        """Return the message for a model that the server no longer finds after its load."""
        return "the node has lost it"

    def harm_of_unload(self, version: str, models: int) -> str | None:
        """Return why an unload does harm at a server with this version and number of models.

        ``None`` where it does no harm.
        """
        return None

    def requests_in_flight(self) -> Ask[Mapping[str, int] | None]:
        """Ask how many requests run on each model, if the server ``counts_requests``.

        The answer is ``None`` from a server without these counts, such as an older version.
        """
        raise NotImplementedError

    def running_on(self, counts: Mapping[str, int], model: str) -> int:
        """Return the number of requests on a model, from an answer to ``requests_in_flight``."""
        return counts.get(model, 0)

    # For model requests.

    def count_tokens(self, fields: JsonObject, model: str, headers: Mapping[str, str]) -> Ask[int]:
        """Ask how many tokens a Messages request has, if the server ``counts_tokens``.

        ``headers`` are the client's headers about its dialect.
        """
        raise NotImplementedError

    @staticmethod
    def kept_by_event(event: ServerSentEvent) -> Sequence[Kept]:
        """Return the state that a stream's event names, if the server ``keeps_state``."""
        return ()

    @staticmethod
    def kept_by_body(body: bytes) -> Sequence[Kept]:
        """Return the state that a whole answer names, if the server ``keeps_state``."""
        return ()
