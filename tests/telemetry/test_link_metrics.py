"""The metrics of the links to agents."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.telemetry.exposition import Registry
from cortexd.telemetry.link_metrics import EnrolmentCollector


class EnrolmentCollectorTests(SynchronousTestCase):
    def test_when_enrolments_end(self) -> None:
        """Each scrape reads anew until when each node's agent is admitted."""
        expiries = {"a": 1.0}
        registry = Registry()
        registry.register(EnrolmentCollector(lambda: expiries))
        expiries["b"] = 2.0
        [family] = registry.collect()

        assert "cortex_agent_enrolment_not_after_seconds" == family.name
        assert {"a": 1.0, "b": 2.0} == {
            sample.labels["node"]: sample.value for sample in family.samples
        }
