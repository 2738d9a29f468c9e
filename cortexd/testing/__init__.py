"""A simulated mistral.rs node, shared by the demo, the tests and the benchmarks.

The daemon imports it only when it is started with --demo. The node serves every route that the
gateway uses by default. It has no Messages and no Responses, and renders no chat templates: the
doubles of the tests add these to it.
"""

from cortexd.testing.faults import Faults
from cortexd.testing.journal import Entry, Journal, Report, together
from cortexd.testing.model import SimulatedModel
from cortexd.testing.node import SimulatedNode

__all__ = [
    "Entry",
    "Faults",
    "Journal",
    "Report",
    "SimulatedModel",
    "SimulatedNode",
    "together",
]
