"""The cases of keys, and what counts as a finding."""

from base64 import b64encode
from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from bench.fuzz.gateway import GatewayInMemory
from bench.fuzz.keyed import KeyTally, run_keys
from bench.fuzz.keys import KeyCase, KeyCases, may_pass
from bench.fuzz.verdicts import Answered

SEED = 20_261_130


class KeyFuzzTests(SynchronousTestCase):
    def test_the_first_cases(self) -> None:
        """None of them opens the gateway without a key, or breaks anything."""
        tally = run_keys(SEED, 0, 300)

        assert [] == tally.findings()
        assert 300 == sum(tally.outcomes.values())
        assert {"200", "400", "401", "403"} == {status for _, status in tally.outcomes}

    def test_a_seed_makes_the_same_cases(self) -> None:
        """In any process, so that a finding can be looked at again."""
        one, other = KeyCases(SEED), KeyCases(SEED)
        assert [one[i] for i in range(20)] == [other[i] for i in range(20)]

    def test_where_a_key_stands(self) -> None:
        """Only in the head, plainly or as a password, can a key have opened the gateway."""
        cases = KeyCases(SEED)
        key = cases.ring.texts[0]
        text = key.text.encode()
        for data, found in (
            (b"GET / HTTP/1.1\r\nX-Api-Key: " + text + b"\r\n\r\n", True),
            (b"GET / HTTP/1.1\r\nA: Basic " + b64encode(b"u:" + text) + b"\r\n\r\n", True),
            (b"POST / HTTP/1.1\r\n\r\n" + text, False),
        ):
            assert found == may_pass(KeyCase(0, "broken", "/", data, None, (key,)))

    def test_a_gateway_without_a_gate(self) -> None:
        """It is found out by the first wrong key."""
        cases = KeyCases(SEED)
        number = next(i for i in range(100) if cases[i].kind == "wrong")
        self.patch(GatewayInMemory, "send", lambda *_: Answered(200, {}, b"{}", is_cut=False))
        tally = run_keys(SEED, number, number + 1)
        assert "200 in place of 401" in tally.findings()[0]

    def test_tallies_add(self) -> None:
        """The counts of two runs are one table."""
        total = KeyTally()
        for _ in range(2):
            part = KeyTally()
            part.outcomes["right", "200"] += 1
            part.note_wrong(replace(KeyCases(SEED)[0], kind="right"), "bad")
            total.add(part)
        assert ["right", "2"] == total.rows()[1]
        assert total.findings()[0].startswith("2 times")
