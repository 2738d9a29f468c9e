import json

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.nodes.answers import BadAnswer
from cortexd.dialects.nodes.mistralrs import read_hardware, read_listing, read_system_info
from cortexd.fleet.states import Observation, ReplicaState, SystemInfo
from tests.dialects.bodies import ANY_ANSWER, JSON_VALUES

LOADED, LOADING = ReplicaState.LOADED, ReplicaState.LOADING
UNLOADED, STUCK = ReplicaState.UNLOADED, ReplicaState.STUCK


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

    @settings(max_examples=150)
    @given(
        ANY_ANSWER
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

    def test_hardware(self) -> None:
        """The number of accelerators says whether the memory is theirs or the machine's."""
        card = {"kind": "cuda", "total_memory_bytes": 1024**3, "available_memory_bytes": 0}
        for cards in (0, 1, 2):
            found = read_hardware(body(devices=[{"kind": "cpu"}, *[card] * cards]))
            assert cards == found.accelerators
            assert (1024 * cards or None) == found.system.memory_total_mb

    def test_left_out(self) -> None:
        """What a node does not tell is unknown, and the rest is still read."""
        assert SystemInfo("0.9.2", None, None) == self.info({"kind": "metal"})
        assert SystemInfo("unknown", None, None) == read_system_info(b"{}")
        assert SystemInfo("unknown", None, None) == read_system_info(
            body(build=[], devices={}, memory=7)
        )

    @settings(max_examples=100)
    @given(ANY_ANSWER)
    def test_any_answer(self, answer: bytes) -> None:
        """Whatever a node answers is a system or a bad answer."""
        try:
            found = read_system_info(answer)
        except BadAnswer:
            return
        assert found.version
