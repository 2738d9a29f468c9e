"""Run one simulated Messages-only server, with the options of `cortexd.testing`."""

from cortexd.testing.__main__ import main
from tests.doubles.messages_api.node import SimulatedMessagesNode

if __name__ == "__main__":
    main(SimulatedMessagesNode)
