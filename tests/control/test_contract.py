import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.protocols import amp
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from cortexd.control.contract import (
    LAST_PAGE,
    MAX_COUNT,
    MAX_MESSAGE_LENGTH,
    Events,
    Json,
    ListNodes,
    ListReplicas,
    LoadModel,
    Refused,
    UnknownModel,
    UnknownNode,
    fitted,
    page,
)
from cortexd.control.summaries import CandidateSummary, LeaseSummary, PlanSummary

REQUEST_IDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
LIMIT = 300
"""Bytes of a page: one lease with a few short texts fits, and an empty one always does."""


def lease(request_id: str = "r", model: str = "m") -> LeaseSummary:
    return LeaseSummary(request_id=request_id, model=model, node="n", age_seconds=1.5)


def all_pages(items: list[LeaseSummary], limit_bytes: int) -> list[list[LeaseSummary]]:
    """Return every page, asked for one after the other as a client does."""
    pages = []
    offset = 0
    while offset != LAST_PAGE:
        found, following = page(items, offset, limit_bytes)
        assert following == LAST_PAGE or following > offset
        pages.append(found)
        offset = following
    return pages


class PageTests(SynchronousTestCase):
    @given(st.lists(st.builds(lease, REQUEST_IDS, REQUEST_IDS)), st.integers(LIMIT, 3000))
    def test_every_page_fits(self, items: list[LeaseSummary], limit_bytes: int) -> None:
        """Whatever the items, no page is above the limit and each goes forward."""
        for found in all_pages(items, limit_bytes):
            assert len(msgspec.json.encode(found)) <= limit_bytes

    @given(st.lists(st.builds(lease, REQUEST_IDS, REQUEST_IDS)))
    def test_pages_together(self, items: list[LeaseSummary]) -> None:
        """All pages together are all items, in their order, if each fits a page of its own."""
        limit_bytes = max([LIMIT, *(len(msgspec.json.encode([item])) for item in items)])
        assert items == [item for found in all_pages(items, limit_bytes) for item in found]

    @given(st.lists(st.builds(lease, REQUEST_IDS, REQUEST_IDS)))
    def test_none_is_lost(self, items: list[LeaseSummary]) -> None:
        """An item too large for a page is in its place with its texts shortened."""
        shown = [item for found in all_pages(items, LIMIT) for item in found]
        assert len(items) == len(shown)
        for item, cut in zip(items, shown, strict=True):
            assert item.request_id.startswith(cut.request_id)
            assert item.model.startswith(cut.model)
            assert (item.node, item.age_seconds) == (cut.node, cut.age_seconds)

    def test_exactly_full(self) -> None:
        """A page takes items to the very last byte of its limit, and not one byte beyond."""
        items = [lease("a"), lease("b")]
        size = len(msgspec.json.encode(items))
        assert (items, LAST_PAGE) == page(items, 0, size)
        assert (items[:1], 1) == page(items, 0, size - 1)

    def test_one_byte_too_large(self) -> None:
        """An item that misses a page of its own by a byte is cut to fit it, brackets and all."""
        item = lease("x" * 100)
        limit_bytes = len(msgspec.json.encode([item])) - 1
        [cut], _following = page([item], 0, limit_bytes)
        assert "x" * 50 == cut.request_id

    def test_beyond_the_end(self) -> None:
        """Behind the last item there is an empty last page: the fleet may have shrunk meanwhile."""
        assert ([], LAST_PAGE) == page([lease()], 1)
        assert ([], LAST_PAGE) == page([lease()], 7)

    def test_longest_text_is_cut(self) -> None:
        """What is shortened is the longest text; the others stay whole."""
        [cut], following = page([lease("short", "x" * 1000)], 0, LIMIT)
        assert LAST_PAGE == following
        assert ("short", "x" * 125) == (cut.request_id, cut.model)

    def test_hopeless_limit(self) -> None:
        """A limit that no item can meet is an error, not an endless list of empty pages."""
        error = self.assertRaises(ValueError, page, [lease()], 0, 10)
        assert "without texts does not fit" in str(error)


def plan(cost: str, victims: list[str], candidates: list[CandidateSummary]) -> PlanSummary:
    return PlanSummary(
        model="m",
        node="n",
        victims=victims,
        seconds=1.5,
        is_measured=True,
        cost=cost,
        candidates=candidates,
    )


CANDIDATES = st.builds(
    CandidateSummary,
    node=REQUEST_IDS,
    possible=st.booleans(),
    cost=REQUEST_IDS,
    victims=st.lists(REQUEST_IDS, max_size=4),
)


class FittedTests(SynchronousTestCase):
    @given(
        st.builds(
            plan, REQUEST_IDS, st.lists(REQUEST_IDS, max_size=9), st.lists(CANDIDATES, max_size=5)
        ),
        st.integers(200, 2000),
    )
    def test_it_fits(self, item: PlanSummary, limit_bytes: int) -> None:
        """Whatever texts and lists there are, it fits, and what fits already is left alone."""
        cut = fitted(item, limit_bytes)
        assert len(msgspec.json.encode(cut)) <= limit_bytes
        assert (cut == item) == (len(msgspec.json.encode(item)) <= limit_bytes)

    @given(
        st.builds(
            plan, REQUEST_IDS, st.lists(REQUEST_IDS, max_size=9), st.lists(CANDIDATES, max_size=5)
        )
    )
    def test_what_is_left_is_the_beginning(self, item: PlanSummary) -> None:
        """A list that is cut keeps its first items, a text its first characters."""
        cut = fitted(item, 200)
        assert item.cost.startswith(cut.cost)
        for kept, whole in zip(cut.victims, item.victims, strict=False):
            assert whole.startswith(kept)
        for candidate, uncut in zip(cut.candidates, item.candidates, strict=False):
            assert uncut.cost.startswith(candidate.cost)
        assert (item.seconds, item.is_measured) == (cut.seconds, cut.is_measured)

    def test_the_longest_first(self) -> None:
        """A long list of victims goes before the words that say what it costs."""
        cut = fitted(plan("evicts much", ["v" * 10] * 100, []), 400)
        assert "evicts much" == cut.cost
        assert 0 < len(cut.victims) < 100


class JsonTests(SynchronousTestCase):
    @given(st.lists(st.builds(lease, REQUEST_IDS, REQUEST_IDS)))
    def test_round_trip(self, items: list[LeaseSummary]) -> None:
        """What is encoded is what is decoded."""
        argument = Json(list[LeaseSummary])
        assert items == argument.fromString(argument.toString(items))

    def test_newer_daemon(self) -> None:
        """A field that this version does not know is passed over."""
        encoded = b'{"request_id":"r","model":"m","node":"n","age_seconds":1.5,"user":"ada"}'
        assert lease() == Json(LeaseSummary).fromString(encoded)

    def test_wrong_type(self) -> None:
        """What is not of the type is an error."""
        for encoded in (b"{", b"[1]", b'[{"request_id":"r"}]', b""):
            self.assertRaises(msgspec.DecodeError, Json(list[LeaseSummary]).fromString, encoded)


class ArgumentsTests(SynchronousTestCase):
    def refusal(self, command: type[amp.Command], **box: bytes) -> str:
        """Return the words with which the daemon refuses a command with these arguments."""
        error = self.assertRaises(
            amp.RemoteAmpError, command.parseArguments, amp.AmpBox(**box), amp.AMP()
        )
        assert b"REFUSED" == error.errorCode
        return str(error.description)

    def test_offset(self) -> None:
        """A page is asked for by the number of items before it."""
        assert {"offset": 12, "node": None} == ListNodes.parseArguments(
            amp.AmpBox(offset=b"12"), amp.AMP()
        )

    def test_missing(self) -> None:
        """A command without one of its arguments is refused by the argument's name."""
        expected = "ListReplicas cannot be understood: argument node is missing"
        assert expected == self.refusal(ListReplicas, offset=b"0")

    def test_impossible(self) -> None:
        """An argument that is no offset or no text is refused."""
        for offset in (b"-1", b"", b"many", b"1.5", b"9" * 5000):
            assert "ListNodes cannot be understood" in self.refusal(ListNodes, offset=offset)
        assert "ListReplicas" in self.refusal(ListReplicas, node=b"\xff", offset=b"0")

    def test_numbers(self) -> None:
        """A number that the journal cannot count up to is refused, the last one is not."""
        box = {"after": str(MAX_COUNT).encode(), "limit": b"1"}
        arguments = Events.parseArguments(amp.AmpBox(**box), amp.AMP())
        assert {"after": MAX_COUNT, "limit": 1, "model": None} == arguments
        assert "Events cannot" in self.refusal(Events, after=b"9223372036854775808", limit=b"1")

    def test_optional(self) -> None:
        """An argument that may be missing is nothing then."""
        arguments = LoadModel.parseArguments(amp.AmpBox(model=b"org/chat"), amp.AMP())
        assert {"model": "org/chat", "node": None} == arguments

    def test_longer_contract(self) -> None:
        """An argument that this version does not know is passed over."""
        box = amp.AmpBox(offset=b"0", order=b"name")
        assert {"offset": 0, "node": None} == ListNodes.parseArguments(box, amp.AMP())


class ErrorsTests(SynchronousTestCase):
    def test_special_before_general(self) -> None:
        """Each error has its own code, though the special ones are refusals too."""
        for error, code in (
            (UnknownNode, b"UNKNOWN_NODE"),
            (UnknownModel, b"UNKNOWN_MODEL"),
            (Refused, b"REFUSED"),
        ):
            raised = Failure(error("words"))
            assert code == ListNodes.errors[raised.check(*ListNodes.errors)]

    def test_words_fit_a_value(self) -> None:
        """However much an error quotes, its words fit into a value."""
        assert MAX_MESSAGE_LENGTH == len(str(UnknownNode("x" * amp.MAX_VALUE_LENGTH)))
