"""Whether listeners admit requests without keys from beyond this machine: pure.

With a keys file, each listener is fine. Without one, a listener on loopback is fine, unless there
are trusted proxies, or its endpoint begins with "haproxy:": proxies bring all clients that reach
them. Otherwise a file without an [auth] table starts with a warning, because such files are older
than keys. A file with that table says what it wants: keys, or ``open = true``, which warns too;
without either it is refused.

``metrics_listen`` is no part of this rule. Nothing there changes anything or answers a prompt; its
figures name models, nodes and keys, and ``metrics`` in [auth] asks for a key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from cortexd.config.addresses import quoted, refusal
from cortexd.config.changes import shown
from cortexd.config.listening import HTTP_LISTEN, LISTEN, is_local, listenings
from cortexd.config.settings import Config

ADVICE: Final = (
    "set keys_file in [auth] and run 'cortexctl key add NAME', or set open = true in [auth] if "
    "everybody who reaches this address may use the models"
)
EXPECTED: Final = (
    'an address on loopback such as "127.0.0.1:8000", because no keys are required; or set '
    "keys_file in [auth] and run 'cortexctl key add NAME'; or set open = true in [auth] if "
    "everybody who reaches this address may use the models"
)
EXPECTED_NO_PROXIES: Final = (
    "no proxies, because they pass on clients from beyond this machine and no keys are required; "
    "or set keys_file in [auth] and run 'cortexctl key add NAME'; or set open = true in [auth] if "
    "everybody who reaches the proxies may use the models"
)
EXPECTED_UNPROXIED: Final = (
    'an endpoint without "haproxy:", because proxies pass on clients from beyond this machine and '
    "no keys are required; or set keys_file in [auth] and run 'cortexctl key add NAME'; or set "
    "open = true in [auth] if everybody who reaches the proxy may use the models"
)
EXPECTED_LOOPBACK: Final = (
    'an address on loopback such as "127.0.0.1:8080": plain HTTP is for this machine only'
)
NO_ADDRESSES: Final[Mapping[str, str]] = {}


class Exposure(NamedTuple):
    """The outcome for one configuration: at most one of the two is not ``None``.

    ``refused`` is why it cannot be used, as in the errors of a file. ``warning`` is a line for the
    operator.
    """

    refused: str | None = None
    warning: str | None = None


FINE: Final = Exposure()


def exposure(config: Config, inherited: Mapping[str, str] = NO_ADDRESSES) -> Exposure:
    """Return whether a configuration exposes the models, and what to do about it.

    ``inherited`` has the addresses of the sockets that systemd passes, by the keys of their
    listeners. As long as the address of one is not known, it is fine.
    """
    where = listenings(config.gateway)
    http = where[HTTP_LISTEN]
    if http is not None and (
        http.is_tls or is_local(http.description, inherited.get(HTTP_LISTEN)) is False
    ):
        error = refusal(_found(http.listen, inherited.get(HTTP_LISTEN)), EXPECTED_LOOPBACK)
        return Exposure(refused=f"{HTTP_LISTEN}: {error}")
    listen = where[LISTEN]
    if listen is None or config.auth.keys_file is not None:
        return FINE
    key, found, expected = LISTEN, _found(listen.listen, inherited.get(LISTEN)), EXPECTED
    if is_local(listen.description, inherited.get(LISTEN)) is not False:
        proxied = listen if listen.is_proxied else http
        if proxied is not None and proxied.is_proxied:
            key, found = (LISTEN if proxied is listen else HTTP_LISTEN), quoted(proxied.listen)
            expected = EXPECTED_UNPROXIED
        elif config.gateway.trusted_proxies:
            key, expected = "gateway.trusted_proxies", EXPECTED_NO_PROXIES
            found = shown(config.gateway.trusted_proxies)
        else:
            return FINE
    if config.has_auth and not config.auth.open:
        return Exposure(refused=f"{key}: {refusal(found, expected)}")
    words = f"open: {key} = {found} admits every client that reaches it, without a key"
    return Exposure(warning=f"{words} (open = true)" if config.has_auth else f"{words}; {ADVICE}")


def _found(listen: str, inherited: str | None) -> str:
    return quoted(listen) if inherited is None else f"{quoted(listen)}, which is {inherited}"
