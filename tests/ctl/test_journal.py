from datetime import UTC
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.control.summaries import EventSummary
from cortexd.ctl.journal import event_text, events_data, events_text

NOW = 1100.0
EVENT = EventSummary(
    number=7,
    at=1_790_000_000.25,
    kind="load_started",
    node="gpu-1",
    model="org/new",
    fields={
        "reason": "requests wait for it",
        "gives_up": ["org/old", "org/older"],
        "target": None,
        "seconds": 12.5,
    },
)


class EventsTests(SynchronousTestCase):
    def test_text(self) -> None:
        """An entry is one line: when, what, where, to which model, and what it has besides."""
        expected = (
            "2026-09-21 14:13:20  load_started  gpu-1  org/new  reason=requests wait for it  "
            "gives_up=org/old,org/older  seconds=12.5\n"
        )
        assert expected == event_text(EVENT, UTC)

    def test_without_model(self) -> None:
        """What an entry has not is left out."""
        bare = msgspec.structs.replace(EVENT, kind="cordoned", model=None, fields={})
        assert "2026-09-21 14:13:20  cordoned  gpu-1\n" == event_text(bare, UTC)

    def test_audit(self) -> None:
        """Who changed what stands in plain words, and more of it behind them."""
        for node, model, fields, words in (
            ("gpu-1", "org/new", {"command": "pin"}, "pin org/new on gpu-1"),
            ("gpu-1", None, {"command": "cordon"}, "cordon gpu-1"),
            (None, "org/new", {"command": "unload", "now": True}, "unload org/new  now=true"),
            (
                None,
                None,
                {"command": "key add", "key": "bob", "scopes": ["infer", "read"]},
                "key add bob  scopes=infer,read",
            ),
            (None, None, {"command": "reload", "refused": "no"}, "reload  refused=no"),
        ):
            event = msgspec.structs.replace(
                EVENT,
                kind="audit",
                node=node,
                model=model,
                fields={"actor": "uid 1000 (alice)", **fields},
            )
            expected = f"2026-09-21 14:13:20  audit  uid 1000 (alice): {words}\n"
            assert expected == event_text(event, UTC)
            assert "uid 1000 (alice)" == events_data([event])["events"][0]["fields"]["actor"]

    @settings(max_examples=50)
    @given(
        st.dictionaries(
            st.text(),
            st.recursive(
                st.none() | st.booleans() | st.floats() | st.text(),
                lambda inner: st.lists(inner, max_size=3),
                max_leaves=5,
            ),
            max_size=4,
        ),
        st.text(),
    )
    def test_any_fields(self, fields: dict[str, Any], words: str) -> None:
        """Whatever an entry holds, it is one line that no terminal obeys."""
        for kind in ("loaded", "audit"):
            event = msgspec.structs.replace(EVENT, kind=kind, fields=fields, model=words)
            line = event_text(event, UTC)
            assert line.endswith("\n")
            assert line[:-1].isprintable()

    def test_many(self) -> None:
        """Entries are told in their order, and in JSON as one object."""
        later = msgspec.structs.replace(EVENT, number=8, kind="loaded")
        first, second = events_text([EVENT, later], NOW).splitlines()
        assert ("load_started" in first, "loaded" in second) == (True, True)
        assert [7, 8] == [each["number"] for each in events_data([EVENT, later])["events"]]
