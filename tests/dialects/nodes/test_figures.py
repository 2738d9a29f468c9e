"""The figures of nodes: whatever stands in place of a number, ours stay within bounds."""

import json
import math
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.nodes import messages, mistralrs, mistralrs_lifecycle
from cortexd.dialects.nodes.answers import MAX_ID, MAX_MODELS, BadAnswer
from cortexd.dialects.nodes.errors import read_error
from cortexd.dialects.wire.exchange import Usage
from cortexd.dialects.wire.json_values import MAX_COUNT, integer
from cortexd.dialects.wire.token_counts import read_counts

GOOD = st.integers(0, MAX_COUNT)
ABSURD = (
    st.integers(MAX_COUNT + 1, 10**400)
    | st.integers(-(10**400), -1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
    | st.text(max_size=5)
    | st.lists(st.integers(), max_size=2)
    | st.sampled_from([10**400, -1, 1e300, 0.5, "7", True, [], {}])
)
ANY = GOOD | ABSURD | st.none()


def listing(value: object) -> object:
    body = json.dumps({"data": [{"id": "m", "created": value}]}).encode()
    return mistralrs.read_listing(body).created


def devices(value: object) -> object:
    device = {"kind": "cuda", "total_memory_bytes": value, "available_memory_bytes": value}
    return mistralrs.read_system_info(json.dumps({"devices": [device]}).encode()).memory_free_mb


def memory(value: object) -> object:
    body = {"memory": {"total_bytes": value, "available_bytes": value}}
    return mistralrs.read_system_info(json.dumps(body).encode()).memory_total_mb


def tokens(value: object) -> object:
    return messages.read_token_count(json.dumps({"input_tokens": value}).encode())


READERS: dict[str, tuple[Callable[[object], object], str]] = {
    "listing": (listing, "created"),
    "devices": (devices, "devices.total_memory_bytes"),
    "memory": (memory, "memory.total_bytes"),
    "tokens": (tokens, "input_tokens"),
}


class FigureTests(SynchronousTestCase):
    @settings(max_examples=60)
    @given(st.sampled_from(sorted(READERS)), ABSURD)
    def test_an_absurd_figure_is_refused_by_its_name(self, reader: str, value: object) -> None:
        """Whether it is too large, below zero, a fraction, or no number at all."""
        read, field = READERS[reader]
        with self.assertRaisesRegex(BadAnswer, f"'{field}' is no number from 0 to 2\\^53"):
            read(value)

    @settings(max_examples=30)
    @given(st.sampled_from(["listing", "devices", "memory"]), GOOD | st.none())
    def test_a_figure_is_taken(self, reader: str, value: int | None) -> None:
        """One that is missing is unknown, and memory counts in MiB."""
        read, _ = READERS[reader]
        unit = 1 if reader == "listing" else 2**20
        assert (None if value is None else value // unit) == read(value)

    @settings(max_examples=60)
    @given(st.lists(ANY, min_size=5, max_size=5))
    def test_an_absurd_count_of_tokens_counts_as_none(self, values: list[object]) -> None:
        """The answer itself is good, and our sums stay small."""
        prompt, cached, written, completion, thinking = values
        counts = read_counts(
            {
                "prompt_tokens": prompt,
                "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
                "completion_tokens": completion,
                "completion_tokens_details": {"reasoning_tokens": thinking},
            }
        )
        found = [counts.input, counts.cache_creation, counts.cache_read, counts.output]
        assert all(type(each) is int and 0 <= each <= MAX_COUNT for each in found)
        assert all(0 <= integer(value) <= MAX_COUNT for value in values)
        usage = Usage(integer(prompt), integer(completion))
        assert math.isfinite(float(usage.prompt_tokens + usage.completion_tokens))

    @given(st.floats() | st.integers(MAX_COUNT + 1, 10**300).map(float))
    def test_a_gauge_beyond_all_measure_is_refused(self, value: float) -> None:
        """The daemon waits for such requests, so a count must be one."""
        sample = {"model": "m", "path": "/v1/chat/completions"}, value
        if -MAX_COUNT <= value <= MAX_COUNT:
            counts = mistralrs_lifecycle.count_in_flight([sample])
            assert counts is not None
            assert 0 <= counts["m"] <= MAX_COUNT
        else:
            with self.assertRaisesRegex(BadAnswer, "http_requests_in_flight"):
                mistralrs_lifecycle.count_in_flight([sample])

    @given(st.text("0123456789.-+eE infa", max_size=400) | st.just("9" * 400))
    def test_a_time_to_retry_is_bounded(self, header: str) -> None:
        """Whatever a node's Retry-After says, ours is days at most."""
        seconds = read_error(503, b"", header).retry_after
        assert seconds is None or 0 <= seconds < 1_000_000

    def test_a_list_is_bounded(self) -> None:
        """In the number of its models and in the length of each id."""
        for read in (mistralrs.read_listing, messages.read_listing):
            data = [{"id": f"m{number}"} for number in range(MAX_MODELS + 1)]
            with self.assertRaisesRegex(BadAnswer, f"more than {MAX_MODELS} models"):
                read(json.dumps({"data": data}).encode())
            assert MAX_MODELS == len(read(json.dumps({"data": data[1:]}).encode()).replicas)
            with self.assertRaisesRegex(BadAnswer, f"more than {MAX_ID} characters"):
                read(json.dumps({"data": [{"id": "m" * (MAX_ID + 1)}]}).encode())

    def test_a_gauge_has_a_bounded_number_of_samples(self) -> None:
        """Each takes time to read, and the daemon reads them while a model unloads."""
        line = 'http_requests_in_flight{model="m",path="/x"} 1\n'
        with self.assertRaisesRegex(BadAnswer, "samples"):
            mistralrs_lifecycle.read_in_flight(line.encode() * 3000)
