import json
import math
from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.nodes.answers import BadAnswer
from cortexd.dialects.nodes.errors import MAX_ERROR_CHARACTERS
from cortexd.dialects.nodes.mistralrs_lifecycle import (
    count_in_flight,
    operation_body,
    read_outcome,
)
from cortexd.fleet.outcomes import LifecycleStatus, Outcome
from tests.dialects.bodies import JSON_VALUES

CHAT = "/v1/chat/completions"


def answer(**fields: object) -> bytes:
    return json.dumps({"model_id": "a/b"} | fields).encode()


class OutcomeTests(SynchronousTestCase):
    def test_body(self) -> None:
        """A node is asked with the model's id under `model_id`, whatever is in the id."""
        for model in ("org/base", "/models/tiny", 'a"b\\c', "ümlaut::x"):
            assert {"model_id": model} == json.loads(operation_body(model))

    def test_statuses(self) -> None:
        """Each status of a node's is one of ours; only a failure has words."""
        for status in LifecycleStatus:
            assert Outcome(status) == read_outcome(answer(status=status.value))
        assert {
            "loaded",
            "unloaded",
            "reloading",
            "not_found",
            "no_loader_config",
            "internal_error",
        } == {status.value for status in LifecycleStatus}

    def test_words(self) -> None:
        """Of a node's words the first line counts, cut: what follows it is a backtrace."""
        for error, words in (
            ("failed to load model: no such file", "failed to load model: no such file"),
            ("\n first\n   0: std::backtrace\n", "first"),
            ("windows\r\nline", "windows"),
            ("x" * 9_000, "x" * MAX_ERROR_CHARACTERS),
            ("", ""),
            (None, ""),
            ({"why": 1}, ""),
        ):
            found = read_outcome(answer(status="internal_error", error=error))
            assert Outcome(LifecycleStatus.INTERNAL_ERROR, words) == found

    def test_out_of_memory(self) -> None:
        """Too little memory is told by the wording of the driver, of the host or of the engine."""
        for words in (
            'failed to load model: DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")',
            "CUDA error: Out Of Memory",
            "cudaMalloc failed",
            "CublasError(CUBLAS_STATUS_ALLOC_FAILED)",
            "Metal error Failed to create metal resource: Buffer",
            "Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
            "memory allocation of 4294967296 bytes failed",
            "Cannot allocate memory (os error 12)",
            'This model does not fit on the devices ["cuda[0] (avail: 812MB)"], and exceeds total'
            " capacity by 6423MB. Auto device mapping params: text[max_seq_len: 4096]",
            "Num GPU blocks is 0. This means there is not enough memory.",
            "Insufficient memory for a usable KV cache after weights and runtime reservations.",
        ):
            assert read_outcome(answer(status="internal_error", error=words)).out_of_memory, words
            behind = f"failed to load model\n\nCaused by:\n    {'x' * 600} {words}"
            assert read_outcome(answer(status="internal_error", error=behind)).out_of_memory

    def test_other_failures(self) -> None:
        """What failed for another reason is not for want of memory."""
        for words in (
            "failed to load model: no such file or directory (os error 2)",
            "Expected tensor of shape [4096], memory layout differs",
            "CUDA_ERROR_INVALID_CONTEXT",
            "",
        ):
            assert not read_outcome(answer(status="internal_error", error=words)).out_of_memory

    def test_refused(self) -> None:
        """What tells no status that is known is refused, with the status in the words."""
        for body in (b"", b"OK", b"[]", b"{}", b'{"status": "\xff"}', answer(status=None)):
            with self.assertRaises(BadAnswer):
                read_outcome(body)
        with self.assertRaisesRegex(BadAnswer, "'pending'"):
            read_outcome(answer(status="pending"))

    @settings(max_examples=150)
    @given(st.binary(max_size=30) | st.builds(answer, status=JSON_VALUES, error=JSON_VALUES))
    def test_any_answer(self, body: bytes) -> None:
        """Whatever a node answers is an outcome with words of a bounded length, or a bad answer."""
        try:
            words = read_outcome(body).error
        except BadAnswer as bad:
            words = str(bad)
        assert len(words) <= MAX_ERROR_CHARACTERS


def sample(
    model: str, value: float, path: str = CHAT, method: str = "POST"
) -> tuple[Mapping[str, str], float]:
    return {"method": method, "path": path, "model": model}, value


class InFlightTests(SynchronousTestCase):
    def test_sums(self) -> None:
        """A model's requests count over all paths and methods; one that had some has 0."""
        assert {"a": 3, "b": 0, "a::code": 1} == count_in_flight(
            [
                sample("a", 2.0),
                sample("a", 1.0, "/v1/embeddings"),
                sample("b", 0.0),
                sample("a::code", 1.0),
            ]
        )

    def test_left_out(self) -> None:
        """Neither questions about a model nor requests for none count, ours or anybody's."""
        assert {"a": 1} == count_in_flight(
            [
                sample("a", 1.0),
                sample("a", 1.0, "/v1/models/status"),
                sample("a", 1.0, "/v1/models/reload"),
                sample("none", 1.0, "/v1/models", "GET"),
                sample("none", 1.0, "/v1/system/info", "GET"),
                sample("unknown", 4.0),
                sample("", 1.0, "/metrics", "GET"),
            ]
        )

    def test_nothing_told(self) -> None:
        """A node that does not count by model is told from one where nothing runs."""
        assert count_in_flight([]) is None
        assert count_in_flight([({}, 3.0), ({"path": CHAT}, 1.0)]) is None
        assert {} == count_in_flight([sample("none", 1.0, "/v1/models", "GET")])

    def test_odd_counts(self) -> None:
        """A count below nothing is nothing, and one that is no number is refused."""
        assert {"a": 0} == count_in_flight([sample("a", -1.0)])
        for value in (math.nan, math.inf):
            with self.assertRaises(BadAnswer):
                count_in_flight([sample("a", value)])
