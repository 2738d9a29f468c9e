"""A simulated mistral.rs node, shared by the demo, the tests and the benchmarks.

Nothing here is imported by the daemon unless it is started with --demo.
"""

from cortexd.testing.faults import Faults
from cortexd.testing.journal import Entry, Journal, Report, together
from cortexd.testing.messages.node import SimulatedMessagesNode
from cortexd.testing.model import SimulatedModel
from cortexd.testing.node import SimulatedNode

__all__ = [
    "Entry",
    "Faults",
    "Journal",
    "Report",
    "SimulatedMessagesNode",
    "SimulatedModel",
    "SimulatedNode",
    "together",
]
