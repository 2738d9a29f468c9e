import json

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.mistralrs import (
    MAX_ERROR_CHARACTERS,
    BadAnswer,
    error_words,
    read_error,
    read_listing,
    read_stream_error,
    read_system_info,
)
from cortexd.errors import (
    BadGateway,
    BadKey,
    BadRequest,
    BodyTooLarge,
    CannotSee,
    ContextOverflow,
    CortexError,
    Forbidden,
    ModelNotFound,
    ModelNotLoaded,
    NodeError,
    NodeTimeout,
    OverBudget,
    Overloaded,
    RateLimited,
)
from cortexd.states import Observation, ReplicaState, SystemInfo
from tests.dialects.bodies import JSON_VALUES

LOADED, LOADING = ReplicaState.LOADED, ReplicaState.LOADING
UNLOADED, STUCK = ReplicaState.UNLOADED, ReplicaState.STUCK

ANYTHING = st.binary(max_size=30) | JSON_VALUES.map(lambda value: json.dumps(value).encode())


def body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def entry(model: str, status: object = None, **fields: object) -> dict[str, object]:
    """Return an entry of a listing; without a status it has none."""
    shown = {} if status is None else {"status": status}
    return {"id": model, "object": "model", "created": 1_790_000_000} | shown | fields


def listed(*entries: object) -> dict[str, ReplicaState]:
    return dict(read_listing(body(object="list", data=entries)).replicas)


class ListingTests(SynchronousTestCase):
    def test_listing(self) -> None:
        """Each model has its state; the pseudo-model is none; adapters are models of their own."""
        data = [
            entry("default", owned_by="local", root="default"),
            entry("org/base", "loaded", root="org/base", tools_available=True),
            entry("/models/tiny", "unloaded"),
            entry("org/slow", "reloading"),
            entry("org/base::code", "loaded", parent="org/base", adapter_generation="f" * 64),
        ]

        assert Observation(
            1_790_000_000,
            {
                "org/base": LOADED,
                "/models/tiny": UNLOADED,
                "org/slow": LOADING,
                "org/base::code": LOADED,
            },
            {"org/base::code": "org/base"},
        ) == read_listing(body(object="list", data=data))

    def test_nothing_loaded(self) -> None:
        """The pseudo-model is listed even by a node without models, and tells its start."""
        data = [entry("default", created=1_790_000_007)]

        assert Observation(1_790_000_007, {}) == read_listing(body(data=data))
        assert Observation(None, {}) == read_listing(body(data=[]))

    def test_duplicates(self) -> None:
        """An id listed as loaded and as reloading is stuck; else the more useful state counts."""
        for states, expected in (
            (("reloading", "loaded"), STUCK),
            (("loaded", "unloaded", "reloading"), STUCK),
            (("loaded", "loaded"), LOADED),
            (("unloaded", "loaded"), LOADED),
            (("reloading", "unloaded"), LOADING),
        ):
            for order in (states, states[::-1]):
                assert {"m": expected} == listed(*(entry("m", state) for state in order))

    def test_status_that_says_nothing(self) -> None:
        """A model without a status is loaded; one whose status nobody knows is left out."""
        assert {"a": LOADED, "b": LOADED} == listed(entry("a"), entry("b", status=None))
        unknown: list[object] = ["pending", "", {}, [], 7, True]
        for status in unknown:
            assert {} == listed(entry("m", status))

    def test_refused(self) -> None:
        """What is no listing is refused."""
        for answer in (
            b"OK",
            b"",
            b"[]",
            b"{}",
            b'{"data": {}}',
            b'{"data": ["m"]}',
            b'{"data": [{"id": 7}]}',
            b'{"data": [{}]}',
            b'{"data": "\xff"}',
            b"[" * 5_000,
        ):
            with self.assertRaises(BadAnswer):
                read_listing(answer)

    @settings(max_examples=150, deadline=None)
    @given(
        ANYTHING
        | st.builds(
            lambda data: body(data=data),
            st.lists(
                st.fixed_dictionaries(
                    {"id": st.text()}, optional={"status": JSON_VALUES, "created": JSON_VALUES}
                )
            ),
        )
    )
    def test_any_answer(self, answer: bytes) -> None:
        """Whatever a node answers is a listing or a bad answer."""
        try:
            found = read_listing(answer)
        except BadAnswer:
            return
        assert "default" not in found.replicas


class SystemInfoTests(SynchronousTestCase):
    def info(self, *devices: object, **fields: object) -> SystemInfo:
        """Return what is read of a node with 64 GiB, 32 of them free, and these devices."""
        gib = 1024**3
        given = {
            "build": {"version": "0.9.2", "cuda": True},
            "memory": {"total_bytes": 64 * gib, "available_bytes": 32 * gib},
            "devices": [
                {
                    "kind": "cpu",
                    "ordinal": None,
                    "total_memory_bytes": 64 * gib,
                    "available_memory_bytes": 32 * gib,
                },
                *devices,
            ],
        }
        return read_system_info(body(**given | fields))

    def test_accelerators(self) -> None:
        """Memory is that of all accelerators together, in MiB; the processor's does not count."""
        cards = [
            {
                "kind": "cuda",
                "ordinal": ordinal,
                "total_memory_bytes": 24_000 * 1024**2,
                "available_memory_bytes": 1_000 * 1024**2 + 5,
            }
            for ordinal in range(2)
        ]

        assert SystemInfo("0.9.2", 48_000, 2_000) == self.info(*cards)

    def test_no_accelerator(self) -> None:
        """Without an accelerator memory is the machine's own."""
        assert SystemInfo("0.9.2", 65_536, 32_768) == self.info()

    def test_left_out(self) -> None:
        """What a node does not tell is unknown, and the rest is still read."""
        assert SystemInfo("0.9.2", None, None) == self.info({"kind": "metal"})
        assert SystemInfo("unknown", None, None) == read_system_info(b"{}")
        assert SystemInfo("unknown", None, None) == read_system_info(
            body(build=[], devices={}, memory=7)
        )

    @settings(max_examples=100, deadline=None)
    @given(ANYTHING)
    def test_any_answer(self, answer: bytes) -> None:
        """Whatever a node answers is a system or a bad answer."""
        try:
            found = read_system_info(answer)
        except BadAnswer:
            return
        assert found.version


UNAVAILABLE = (
    "Requested model 'x' is not available. Available models: a, b. Use 'default' to use the "
    "default model."
)
TOO_LONG = "Prompt sequence length is greater than 64, perhaps consider using `truncate_sequence`?"
MEANINGS: list[tuple[str, type[CortexError], bool]] = [
    (UNAVAILABLE, ModelNotFound, True),
    (
        "Requested model 'x' is not available. No models are currently loaded.",
        ModelNotFound,
        True,
    ),
    ("This model does not support images, audio or video.", CannotSee, False),
    ("This model does not support audio", BadRequest, False),
    ("model `x` is being reloaded", ModelNotLoaded, True),
    ("failed to reload model: failed to load model", ModelNotLoaded, True),
    ("failed to reload model: CUDA_ERROR_OUT_OF_MEMORY", ModelNotLoaded, True),
    ("engine state lock is poisoned", BadGateway, True),
    ("No response received from the model.", BadGateway, True),
    ('DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")', NodeError, True),
    ("CUDA error: Out of memory", NodeError, True),
    (TOO_LONG, ContextOverflow, False),
    (
        "This model's maximum context length is 64 tokens, you asked for 99",
        ContextOverflow,
        False,
    ),
    ("The prompt is longer than the model's context window", ContextOverflow, False),
    ("prompt is too long: 99 tokens > 64 maximum", ContextOverflow, False),
]


class ErrorTests(SynchronousTestCase):
    def test_meanings(self) -> None:
        """A message means the same whatever status it comes with, in a stream too, in its words."""
        for words, kind, elsewhere in MEANINGS:
            found = [read_error(status, body(message=words)) for status in (422, 500, 503)]
            for error in (*found, read_stream_error(words)):
                assert (kind, elsewhere, words) == (type(error), error.elsewhere, error.message)
                assert (kind is ModelNotLoaded) == (error.retry_after is not None)

    def test_other_messages(self) -> None:
        """A message that only sounds like one of those is none of them."""
        for words in (
            "Number of choices must be greater than 0.",
            "Role for an image message must be `user`, but it is assistant",
            "Custom embedding dimensions (7) are not supported.",
        ):
            assert BadRequest is type(read_error(422, body(message=words)))
            assert NodeError is type(read_error(500, body(message=words)))
            assert NodeError is type(read_stream_error(words))

    def test_statuses(self) -> None:
        """Without known words the status decides; only a node's own trouble is tried elsewhere."""
        for status, kind, elsewhere in (
            (400, BadRequest, False),
            (415, BadRequest, False),
            (422, BadRequest, False),
            (413, BodyTooLarge, False),
            (404, BadGateway, True),
            (401, BadKey, True),
            (402, OverBudget, True),
            (403, Forbidden, True),
            (429, RateLimited, True),
            (529, Overloaded, True),
            (502, BadGateway, True),
            (503, BadGateway, True),
            (504, NodeTimeout, True),
            (500, NodeError, False),
            (405, NodeError, False),
        ):
            error = read_error(status, b"some words")
            assert (kind, elsewhere) == (type(error), error.elsewhere)
            assert "some words" in error.message
            assert (status in (429, 529)) == (error.retry_after is not None)
            told = read_error(status, b"some words", "17")
            assert (17.0 if status in (429, 529) else None) == told.retry_after

    def test_shapes(self) -> None:
        """A message is found in every shape that nodes and their front doors give it."""
        for answer in (
            body(message="why", partial_response={"id": "1"}),
            body(error={"message": "why", "type": "server_error"}),
            body(error="why"),
            body(detail="why"),
            body(error=None, message="why"),
            body(error={}, detail={"message": "why"}),
            b'"why"',
            b" why\n",
        ):
            assert "why" == error_words(answer)
        assert '[{"loc":1}]' == error_words(body(detail=[{"loc": 1}]))

    def test_length(self) -> None:
        """Of a long message the beginning is passed on."""
        words = "x" * 10_000
        for found in (
            read_error(500, body(message=words)).message,
            read_error(500, words.encode()).message,
            read_stream_error(words).message,
        ):
            assert "x" * MAX_ERROR_CHARACTERS == found

    def test_no_words(self) -> None:
        """An error without words still says something, with the status where there is one."""
        for answer in (b"", b"{}", b"null", b'{"message": ""}'):
            assert read_error(500, answer).message
        assert "status 500" in read_error(500, b"").message
        assert read_stream_error("").message

    def test_nest(self) -> None:
        """An error nested as deep as can be read is found, deeper is passed on as text."""
        assert "why" == error_words(b'{"error":' * 900 + b'"why"' + b"}" * 900)
        assert error_words(b'{"error":' * 5_000).startswith('{"error":')

    @settings(max_examples=200, deadline=None)
    @given(st.sampled_from([400, 404, 422, 500, 503]), ANYTHING)
    def test_any_error(self, status: int, answer: bytes) -> None:
        """Whatever a node answers, the client gets an error in words of a bounded length."""
        message = read_error(status, answer).message

        assert 0 < len(message) <= MAX_ERROR_CHARACTERS + 100
