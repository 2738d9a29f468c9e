from twisted.trial.unittest import SynchronousTestCase

from cortexd.control.summaries import RequestSummary
from cortexd.ctl.fairness import passed_words


def words(by_class: int, by_share: int) -> str:
    return passed_words(
        RequestSummary(
            request_id="r",
            model="m",
            outcome="queued",
            node="a",
            age_seconds=1.0,
            queued_seconds=2.0,
            decision=None,
            passed_by_class=by_class,
            passed_by_share=by_share,
        )
    )


class PassedTests(SynchronousTestCase):
    def test_why_others_came_first(self) -> None:
        """Because of their class, of what their keys had used, or of neither."""
        assert "" == words(0, 0)
        assert ", where 1 later request of another class came first" == words(1, 0)
        assert words(3, 2) == (
            ", where 3 later requests of another class and 2 later requests of keys that had used "
            "less of the GPUs came first"
        )
