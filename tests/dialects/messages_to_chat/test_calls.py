"""Tool calls put together from deltas: to which call a delta belongs."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.messages_to_chat.calls import Call, CallDelta, Calls


def sorted_into_calls(*deltas: tuple[int, str, str, str]) -> list[tuple[str, str, str]]:
    """Return given id, name and arguments of the calls that these deltas make."""
    calls = Calls("stem")
    found: list[Call] = []
    for delta in deltas:
        call = calls.take(CallDelta(*delta))
        if call not in found:
            found.append(call)
    return [(call.given_id, call.name, call.take_arguments()) for call in found]


class GenerationTests(SynchronousTestCase):
    def test_table(self) -> None:
        """Each row of the table that says when a delta begins another call at its index."""
        for first, second, is_another in (
            # a name that is not the newest one's
            ((0, "", "f", ""), (0, "", "g", ""), True),
            ((0, "x", "f", "{"), (0, "x", "g", "}"), True),
            # an id, as the newest has
            ((0, "x", "f", "{}"), (0, "y", "f", "{}"), True),
            ((0, "x", "f", "{"), (0, "y", "", "{}"), True),
            ((0, "x", "f", "{"), (0, "x", "f", "}"), False),
            # an id, which the newest has not
            ((0, "", "f", "{"), (0, "x", "f", "{}"), True),
            ((0, "", "f", ""), (0, "x", "f", "{}"), False),
            ((0, "", "f", "{"), (0, "x", "", "}"), False),
            # no id, but the name and arguments
            ((0, "", "f", "{}"), (0, "", "f", "{}"), True),
            ((0, "", "f", "{"), (0, "", "f", "}"), False),
            ((0, "x", "f", "{}"), (0, "", "f", ""), False),
            # anything else
            ((0, "x", "f", "{"), (0, "", "", "}"), False),
            ((0, "x", "f", "{}"), (0, "", "", "}"), False),
            ((0, "", "", "{"), (0, "", "f", "}"), False),
            ((0, "x", "", ""), (0, "", "f", "{}"), False),
            # another index
            ((0, "x", "f", "{}"), (1, "x", "f", "{}"), True),
        ):
            found = sorted_into_calls(first, second)
            assert 1 + is_another == len(found), (first, second)
            assert first[3] + second[3] == "".join(arguments for _, _, arguments in found)

    def test_earlier_generation(self) -> None:
        """An id at its index finds its call again, also when another has come between."""
        assert [("x", "f", '{"a":1}'), ("y", "g", '{"b":2}')] == sorted_into_calls(
            (0, "x", "f", '{"a":'),
            (0, "y", "g", '{"b":'),
            (0, "x", "", "1}"),
            (0, "y", "g", "2}"),
        )

    def test_next_to_start(self) -> None:
        """A call can start with its name and its id or arguments; the lowest index is first."""
        calls = Calls("stem")
        calls.take(CallDelta(3, "", "f", ""))
        assert None is calls.next_to_start()
        second = calls.take(CallDelta(2, "x", "g", ""))
        first = calls.take(CallDelta(1, "", "h", "{}"))
        assert first is calls.next_to_start()
        calls.start(first)
        assert second is calls.next_to_start()
        assert [2, 3] == [call.index for call in calls.pending()]

    def test_ids(self) -> None:
        """A call has the id it was given, unless there is none or another call has it."""
        calls = Calls("stem")
        given_ids = ("", "x", "x", "stem_3", "")
        for index, given_id in enumerate(given_ids):
            calls.start(calls.take(CallDelta(index, given_id, "f", "")))
        started = [calls.take(CallDelta(index, "", "", "")).id for index in range(len(given_ids))]

        assert ["stem_0", "x", "stem_2", "stem_3", "stem_4"] == started

    def test_late_id(self) -> None:
        """A call that started without an id keeps the one we gave it."""
        calls = Calls("stem")
        call = calls.take(CallDelta(0, "", "f", "{"))
        calls.start(call)

        assert call is calls.take(CallDelta(0, "x", "", "}"))
        assert ("stem_0", "") == (call.id, call.given_id)
