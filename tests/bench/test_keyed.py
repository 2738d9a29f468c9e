"""What decides whether keys cost too much: the interval of the ratios, and its verdict."""

import tempfile
from math import inf
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bench.keyed import LOADS, Comparison, interval, keys_file
from bench.wire import Knobs, chat_request
from cortexd.config.keys_file import load


class IntervalTests(SynchronousTestCase):
    def test_by_the_book(self) -> None:
        """The ranks are those of the tables for the sign test."""
        for count, low in ((5, None), (6, 1), (10, 2), (20, 6), (40, 14)):
            found = interval([float(number) for number in range(1, count + 1)])
            assert ((0.0, inf) if low is None else (low, count + 1 - low)) == found

    @given(st.lists(st.floats(0.5, 2.0), min_size=6, max_size=40))
    def test_it_is_of_the_given_ratios(self, ratios: list[float]) -> None:
        """In their order, with as many below it as above."""
        low, high = interval(ratios)
        ordered = sorted(ratios)
        assert low <= high
        assert ordered.index(low) < len(ratios) / 2
        assert low in ratios
        assert high in ratios

    def verdict(self, *ratios: float) -> str:
        return Comparison(LOADS[0], ratios, (1.0,) * len(ratios)).verdict

    def test_verdicts(self) -> None:
        """Only an interval that lies on one side of the limit decides."""
        assert "pass" == self.verdict(*[1.01] * 10, 1.9)
        assert "miss" == self.verdict(*[1.03] * 10, 0.5)
        assert self.verdict(*[1.01, 1.03] * 10).startswith("cannot tell")
        assert self.verdict(1.0).startswith("cannot tell")


class RequestTests(SynchronousTestCase):
    def test_keys_of_clients(self) -> None:
        """The daemon can read the keys file, and a request has its key."""
        text, keys = keys_file(3)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "keys.toml")
            path.write_text(text, encoding="utf-8")
            path.chmod(0o600)
            found = load(path)

        assert 3 == len(found) == len(set(keys))
        assert all(f"-{key.id}-" in text for key, text in zip(found, keys, strict=True))
        request = chat_request(Knobs(), stream=False, key=keys[0])
        assert f"\r\nAuthorization: Bearer {keys[0]}\r\n".encode() in request
        assert b"Authorization" not in chat_request(Knobs(), stream=False)
