"""A simulated mistral.rs node that also has the APIs that the gateway translates by default."""

from functools import cached_property

from twisted.web.resource import Resource

from cortexd.testing.app import Routes
from cortexd.testing.node import SimulatedNode
from tests.doubles.messages_api.route import MistralrsMessages
from tests.doubles.native_responses.route import NativeResponses


class SimulatedNativeNode(SimulatedNode):
    """A mistral.rs node with the APIs of `anthropic = "native"` and `responses = "native"`.

    With `older_responses`, /v1/responses behaves as in an older version. It rejects a body with a
    tool of a kind that it does not know, `namespace` or `web_search`. It accepts text in several
    parts only from users. A streamed call does not name its function.
    """

    older_responses = False

    @cached_property
    def responses(self) -> NativeResponses:
        """Its Responses, with those that its process has stored."""
        return NativeResponses(self)

    def _routes(self) -> Resource:
        return Routes(self, MistralrsMessages(self), self.responses).resource()
