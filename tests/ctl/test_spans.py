from argparse import ArgumentTypeError
from datetime import datetime

from twisted.trial.unittest import SynchronousTestCase

from cortexd.ctl.spans import moment, span, written


class SpansTests(SynchronousTestCase):
    def test_spans(self) -> None:
        """A number with a unit, or of seconds."""
        assert [90.0, 90.0, 1800.0, 43200.0, 604800.0, 1209600.0] == [
            span(text) for text in ("90", "90s", "30m", "12h", "7d", "2w")
        ]
        for text in ("", "-1", "1y", "soon", "nan", "inf", "9" * 400):
            with self.assertRaises(ArgumentTypeError) as caught:
                span(text)
            assert f"found {text}, expected a span such as" in str(caught.exception)

    def test_moments(self) -> None:
        """A date is its first moment here; a time may have a zone; a span begins now."""
        assert datetime(2027, 1, 31).timestamp() == moment("2027-01-31")
        assert 1_801_418_400.0 == moment("2027-01-31T18:00:00Z") == moment("2027-01-31T20:00+02:00")
        assert 3500 < moment("1h") - moment("0") < 3700
        for text in ("tomorrow", "2027-13-01", "9" * 400, "31.1.2027"):
            self.assertRaises(ArgumentTypeError, moment, text)

    def test_written(self) -> None:
        """A time is written in UTC, whatever it is."""
        assert "2027-01-31T18:00:00Z" == written(1_801_418_400.0)
        assert "1e+300" == written(1e300)
