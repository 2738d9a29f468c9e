from twisted.trial.unittest import SynchronousTestCase

from cortexd.control.summaries import RequestSummary
from cortexd.ctl.fairness import passed_words, request_words


def waiting(by_class: int = 0, by_share: int = 0, key: str = "") -> RequestSummary:
    return RequestSummary(
        request_id="r",
        model="m",
        outcome="waiting",
        node=None,
        age_seconds=2.0,
        queued_seconds=2.0,
        decision=None,
        key=key,
        passed_by_class=by_class,
        passed_by_share=by_share,
    )


def words(by_class: int, by_share: int) -> str:
    return passed_words(waiting(by_class, by_share))


class RequestTests(SynchronousTestCase):
    def test_the_key_of_a_request(self) -> None:
        """It is named where there is one."""
        assert "r requested m: waiting, 2s in the queue" == request_words(waiting())
        assert "r requested m with the key ann: waiting, 2s in the queue" == request_words(
            waiting(key="ann")
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
