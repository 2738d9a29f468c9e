"""The daemon's side of the commands that enrol agents and revoke them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred

from cortexd.agents.enrolling import Enroller
from cortexd.config.addresses import gateway_address
from cortexd.control.agents import AgentsControl
from cortexd.control.contract import Refused, fitted, page, refusing
from cortexd.control.enrolment_commands import (
    EnrolAgent,
    EnrolmentSummary,
    ListEnrolments,
    RevokeAgent,
)
from cortexd.link.admission import Enrolment
from cortexd.link.certificates import AGENT_DAYS
from cortexd.link.enrolment import text_of

NO_ADDRESS = (
    "where agents reach the gateway is unknown: set listen in [agents], and say --gateway "
    "HOST:PORT or name the gateway in names of [agents]"
)


class EnrolControl(AgentsControl):
    """The part of a ControlProtocol that answers these commands.

    Without an ``enroller`` of the factory every one of them is rejected. What an agent needs to
    prove itself goes to the client that ordered it, once, and nowhere else.
    """

    @EnrolAgent.responder
    def enrol_agent(
        self, node: str, by_token: bool | None, days: int | None, gateway: str | None
    ) -> Deferred[Mapping[str, Any]]:
        """Enrol the agent of a node, and return what it needs."""
        return Deferred.fromCoroutine(self._enrol(node, by_token or False, days, gateway))

    async def _enrol(
        self, node: str, by_token: bool, days: int | None, gateway: str | None
    ) -> Mapping[str, Any]:
        self._node(node)
        enroller = self._enroller()
        address = self._gateway(gateway, enroller)
        days = AGENT_DAYS if days is None else days
        with refusing():
            made, given = await enroller.enrol(node, address, days, by_token=by_token)
        self.changed("agent enroll", node=node, admits=made.kind.value, days=days)
        summary = self._enrolment_summary(node, made, enroller)
        return {"enrolment": text_of(given), "agent": fitted(summary)}

    def _gateway(self, given: str | None, enroller: Enroller) -> str:
        """Return the HOST:PORT at which an agent connects."""
        if given is None:
            if enroller.address is None:
                raise Refused(NO_ADDRESS)
            return enroller.address
        try:
            return gateway_address(given)
        except ValueError as error:
            raise Refused(f"--gateway: {error}") from None

    @ListEnrolments.responder
    def list_enrolments(self, offset: int) -> Deferred[Mapping[str, Any]]:
        """Return a page of enrolments."""
        return Deferred.fromCoroutine(self._list(offset))

    async def _list(self, offset: int) -> Mapping[str, Any]:
        enroller = self._enroller()
        with refusing():
            known = await enroller.listed()
        nodes = {*known, *enroller.enrolments.revoked, *self._agents().nodes}
        found = [self._enrolment_summary(node, known.get(node), enroller) for node in sorted(nodes)]
        items, following = page(found, offset)
        return {"items": items, "next": following}

    @RevokeAgent.responder
    def revoke_agent(self, node: str) -> Deferred[Mapping[str, Any]]:
        """Take an agent's right to speak for a node away."""
        return Deferred.fromCoroutine(self._revoke_agent(node))

    async def _revoke_agent(self, node: str) -> Mapping[str, Any]:
        enroller = self._enroller()
        with refusing():
            known = await enroller.listed()
        if node not in known:
            self._node(node)  # one of another authority is in no file
        was_connected = self._agents().on(node) is not None
        with refusing():
            await enroller.revoke(node)
        self.changed("agent revoke", node=node)
        return {"was_connected": was_connected}

    def _enrolment_summary(
        self, node: str, enrolment: Enrolment | None, enroller: Enroller
    ) -> EnrolmentSummary:
        return EnrolmentSummary(
            node=node,
            kind=enrolment.kind.value if enrolment is not None else None,
            created=enrolment.created if enrolment is not None else None,
            expires=enroller.enrolments.expiries.get(node),
            revoked=enroller.enrolments.revoked.get(node),
            connected=self._agents().on(node) is not None,
            is_configured=node in self._dispatcher.fleet.nodes,
        )

    def _enroller(self) -> Enroller:
        enroller: Enroller | None = self.factory.enroller
        if enroller is None:
            raise Refused("the daemon enrols no agents")
        return enroller
