"""`python -m bench.gate`: what a request pays for its key, where 1000 keys are on file."""

from __future__ import annotations

import argparse
import sys
import timeit
from base64 import b64encode
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.web.http_headers import Headers

from bench.report import circumstances, plain
from cortexd.access.ring import KeyRing
from cortexd.downstream.gate import Gate, Unproven
from tests.access.making import Given, given
from tests.support.bulk import InlineWorker

KEYS = 1000
ROUNDS = 9

WAYS: dict[str, Callable[[Given], tuple[bytes, bytes]]] = {
    "Authorization: Bearer": lambda key: (b"Authorization", b"Bearer " + key.text.encode()),
    "x-api-key": lambda key: (b"X-Api-Key", key.text.encode()),
    "Authorization: Basic": lambda key: (
        b"Authorization",
        b"Basic " + b64encode(b"me:" + key.text.encode()),
    ),
}


def main() -> int:
    """Print the microseconds of a look at a key that came before, right and wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench.gate", description=__doc__)
    parser.add_argument("--keys", type=int, default=KEYS, help=f"default: {KEYS}")
    options = parser.parse_args()
    right = [given(str(number)) for number in range(options.keys)]
    wrong = [given() for _ in right]
    gate = Gate(
        KeyRing([each.key for each in right]), InlineWorker(), lambda: 0.0, Clock(), lambda *_: ()
    )
    rows = [["a look at a key that came before, us", "right", "wrong"]]
    for way in WAYS:
        rows.append([way, *(f"{_cost(gate, way, keys):.1f}" for keys in (right, wrong))])
    print(*circumstances(), "", plain(rows), sep="\n")
    return 0


def _cost(gate: Gate, way: str, keys: list[Given]) -> float:
    """Return the microseconds of a look at a key, the least of several rounds over all keys."""
    sent = [Headers() for _ in keys]
    for headers, key in zip(sent, keys, strict=True):
        headers.addRawHeader(b"Host", b"gateway")
        headers.addRawHeader(*WAYS[way](key))
        found = gate.look(headers)
        if isinstance(found, Unproven):
            Deferred.fromCoroutine(gate.prove(found, "10.0.0.1"))
    rounds = timeit.repeat(lambda: list(map(gate.look, sent)), number=1, repeat=ROUNDS)
    return min(rounds) / len(keys) * 1e6


if __name__ == "__main__":
    sys.exit(main())
