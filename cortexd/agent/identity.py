"""Who the agent is, and where its gateway is, of the agent's file and its enrolment."""

from __future__ import annotations

from dataclasses import replace

from cryptography import x509

from cortexd.config.addresses import host_of, port_of
from cortexd.config.agent_settings import OwnSettings
from cortexd.config.expiry import OF_AN_AGENT, Validity
from cortexd.config.files import open_regular
from cortexd.config.node_tls import Key, NodeTLS, tls_files
from cortexd.config.tables import ConfigError
from cortexd.link import enrolment
from cortexd.link.identities import Identity
from cortexd.link.proofs import is_token
from cortexd.text import one_line

MOST_BYTES = 4096
"""The most bytes that are read of a token's file."""

Reach = tuple[tuple[str, int], Identity]
"""The host and the port of the gateway, and the identity that the agent shows there."""


def reach_of(own: OwnSettings) -> Reach:
    """Return where the gateway is and who the agent is; keys of the file replace the enrolment's.

    Raises ConfigError for a file that cannot be read or used. No message contains a key.
    """
    node, gateway = own.node or "", own.gateway or ""
    identity = Identity(node)
    if own.enrolment is not None:
        found = enrolment.load(own.enrolment)
        identity = Identity(
            found.node, found.server_name, _without_key(own, found.tls), found.token or ""
        )
        if own.node not in (None, found.node):
            raise ConfigError(
                f"agent.node: found {node}, expected {found.node}, the node of "
                f"{one_line(own.enrolment)}"
            )
        gateway = own.gateway or found.gateway
    identity = _with_own_files(own, identity, gateway)
    return (host_of(gateway), port_of(gateway)), identity


def exposures(own: OwnSettings) -> list[str]:
    """Return a warning for each secret file that every user may read or write."""
    files = (own.enrolment, own.key, own.token_file)
    return [words for path in files if path and (words := enrolment.exposure(path)) is not None]


def expiries(identity: Identity, now: float) -> list[str]:
    """Return a warning for the agent's certificate if it is not valid, or not for long."""
    if identity.tls is None or not identity.tls.chain:
        return []
    own = x509.load_der_x509_certificate(identity.tls.chain[0])
    validity = Validity(own.not_valid_before_utc.timestamp(), own.not_valid_after_utc.timestamp())
    warning = validity.warning(now, OF_AN_AGENT)
    return [] if warning is None else [f"the certificate of this agent {warning}"]


def _without_key(own: OwnSettings, tls: NodeTLS) -> NodeTLS:
    """Return the files of an enrolment, without the certificate that a token of ours replaces."""
    return NodeTLS(tls.authorities) if own.token_file is not None else tls


def _with_own_files(own: OwnSettings, identity: Identity, gateway: str) -> Identity:
    """Return the identity with what the agent's file itself states."""
    files = tls_files(
        Key("agent.ca", own.ca),
        Key("agent.certificate", own.certificate),
        Key("agent.key", own.key),
    )
    if own.ca is not None or own.certificate is not None:
        before = identity.tls or NodeTLS()
        tls = NodeTLS(
            files.authorities or before.authorities,
            files.chain or before.chain,
            files.key or before.key,
        )
        identity = replace(identity, tls=tls)
    if own.certificate is not None:
        identity = replace(identity, token="")
    if own.token_file is not None:
        identity = replace(identity, token=_token(own.token_file))
    if own.server_name is not None:
        identity = replace(identity, server_name=own.server_name)
    elif own.enrolment is None:
        identity = replace(identity, server_name=host_of(gateway))
    return identity


def _token(path: str) -> str:
    where = f"agent.token_file: {one_line(path)}"
    try:
        with open_regular(path) as file:
            token = file.read(MOST_BYTES).decode("ascii").strip()
    except OSError as error:
        raise ConfigError(f"{where} cannot be read ({error.strerror})") from None
    except UnicodeError:
        token = ""
    if not is_token(token):
        words = "expected the token that 'cortexctl agent enroll --token' has made"
        raise ConfigError(f"{where}: {words}")
    return token
