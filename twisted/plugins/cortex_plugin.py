"""What `twistd` lists: a name, a line of help and the module to import when it is chosen."""

from twisted.application.service import ServiceMaker

cortex = ServiceMaker(
    "cortex gateway",
    "cortexd.tap",
    "One address in front of a fleet of mistral.rs nodes.",
    "cortex",
)

cortex_agent = ServiceMaker(
    "cortex agent",
    "cortexd.agent.tap",
    "Watches the engine beside it, and reports to a cortex gateway.",
    "cortex-agent",
)
