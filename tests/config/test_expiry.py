"""When a certificate expires, in words, and when the operator hears of it."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.config.expiry import DAY, HOUR, Reminders, Validity

END = 1_800_000_000.0
VALID = Validity(END - 90 * DAY, END)
RENEWED = Validity(END - 10 * DAY, END + 80 * DAY)


class WordsTests(SynchronousTestCase):
    def test_warnings(self) -> None:
        """They begin 14 days before the end, and say when that is and what to do."""
        assert VALID.warning(END - 14 * DAY - 1) is None
        words = "expires in 14 days, on 2027-01-15 08:00 UTC; renew it and reload"
        assert words == VALID.warning(END - 14 * DAY)
        assert "expires in 30 hours" in (VALID.warning(END - 30 * HOUR) or "")
        assert "has expired 1 hour ago" in (VALID.warning(END + HOUR) or "")
        assert "is not valid before" in (VALID.warning(VALID.not_before - 1) or "")

    def test_a_check(self) -> None:
        """It shows the end of a certificate that is fine, too."""
        assert "valid until 2027-01-15 08:00 UTC (30 days)" == VALID.words(END - 30 * DAY)


class RemindersTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reminders = Reminders()

    def due(self, validity: Validity, now: float) -> bool:
        return self.reminders.due("gateway.listen", validity, now) is not None

    def test_once_a_day(self) -> None:
        """Looked at each hour, a certificate that ends in 13.5 days warns at once, then daily."""
        begin = END - 13.5 * DAY
        hours = [hour for hour in range(73) if self.due(VALID, begin + hour * HOUR)]
        assert [0, 24, 48, 72] == hours

    def test_the_end(self) -> None:
        """It is said when it comes, however short ago the last warning was."""
        assert self.due(VALID, END - HOUR)
        assert not self.due(VALID, END - 1)
        assert self.due(VALID, END)
        assert not self.due(VALID, END + HOUR)

    def test_a_renewed_certificate(self) -> None:
        """It is silent; a later one that ends soon warns at once."""
        assert self.due(VALID, END - HOUR)
        assert not self.due(RENEWED, END - HOUR)
        assert self.due(VALID, END - HOUR + 1)

    def test_a_clock_that_was_set_back(self) -> None:
        """It does not keep the warnings away."""
        assert self.due(VALID, END - HOUR)
        assert self.due(VALID, END - 2 * HOUR)
