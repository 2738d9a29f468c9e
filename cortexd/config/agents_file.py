"""The file of the enrolments: which agents are admitted, and when nodes were revoked.

An ``[[agents]]`` table is the enrolment of one node, a ``[[revoked]]`` table says when a node was
last revoked. ``cortexctl agent`` writes the file, and people may: changes keep what they wrote. It
has no token and no key of a certificate, but the key that a token gives, which no error shows. A
file that does not exist has no enrolments. A faulty one is a ConfigError.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Annotated, Final, Literal, cast

from msgspec import Meta, Struct
from msgspec import inspect as types

from cortexd.config.addresses import only, quoted, refusal, secret
from cortexd.config.tables import ConfigError, table_of
from cortexd.config.tables_text import (
    appended,
    find_table,
    without,
    written,
    written_table,
)
from cortexd.config.values import NodeName
from cortexd.text import one_line

SERIAL: Final = "the serial number of the certificate, 1 to 40 hexadecimal digits"
KEY: Final = "the 64 hexadecimal digits that 'cortexctl agent enroll --token' has made"
HEAD: Final = (
    "# Which agents are admitted; 'cortexctl agent' writes this file. After a change by hand, run\n"
    "# 'cortexctl reload'.\n"
)

Key = Annotated[str, secret(KEY, re.compile(r"[0-9a-f]{64}").fullmatch)]
Serial = Annotated[str, only(SERIAL, re.compile(r"[0-9a-f]{1,40}").fullmatch)]
Time = Annotated[datetime, Meta(tz=True)]


class EnrolmentSettings(Struct, kw_only=True, frozen=True):
    """[[agents]]: the certificate with ``serial``, or the token with ``key``, admits the agent."""

    node: NodeName
    kind: Literal["certificate", "token"]
    serial: Serial | None = None
    key: Key | None = None
    created: Time
    expires: Time

    def __repr__(self) -> str:
        return f"<EnrolmentSettings of {self.node}, by its {self.kind}>"


class RevokedSettings(Struct, kw_only=True, frozen=True):
    """[[revoked]]: what was made for ``node`` at the time ``at`` or before admits nobody."""

    node: NodeName
    at: Time


class AgentsTable(Struct, kw_only=True, frozen=True):
    """A whole file."""

    agents: tuple[EnrolmentSettings, ...] = ()
    revoked: tuple[RevokedSettings, ...] = ()


TABLE_TYPE: Final = cast(types.StructType, types.type_info(AgentsTable))


def read(text: str, source: str) -> AgentsTable:
    """Return the tables of a TOML text; errors call it ``source``, usually a path.

    Raises ConfigError for invalid TOML, for an unknown or a missing key of a table, for a value
    that is not allowed, and for two tables of one node.
    """
    table: AgentsTable = table_of(TABLE_TYPE, text, source)
    for fault in _faults(table):
        raise ConfigError(f"{one_line(source)}: {fault}")
    return table


def enrolled(text: str, enrolment: EnrolmentSettings) -> str:
    """Return the text with this enrolment instead of its node's, if there was one.

    Raises UnknownFormError, as ``revoked`` does.
    """
    text = _removed(text, "agents", enrolment.node) or HEAD
    values = {
        "node": enrolment.node,
        "kind": enrolment.kind,
        "serial": enrolment.serial,
        "key": enrolment.key,
        "created": enrolment.created,
        "expires": enrolment.expires,
    }
    return _appended(text, "agents", values)


def revoked(text: str, revocation: RevokedSettings) -> str:
    """Return the text without the enrolment of a node, and with the time when it was revoked."""
    text = _removed(text, "agents", revocation.node)
    text = _removed(text, "revoked", revocation.node) or HEAD
    return _appended(text, "revoked", {"node": revocation.node, "at": revocation.at})


def _removed(text: str, name: str, node: str) -> str:
    try:
        return without(text, find_table(text, name, "node", node))
    except KeyError:
        return text


def _appended(text: str, name: str, values: Mapping[str, object]) -> str:
    lines = {key: written(value) for key, value in values.items() if value is not None}
    return appended(text, written_table(name, lines))


def _faults(table: AgentsTable) -> Iterator[str]:
    for name, nodes in (
        ("agents", [each.node for each in table.agents]),
        ("revoked", [each.node for each in table.revoked]),
    ):
        paths: dict[str, str] = {}
        for index, node in enumerate(nodes):
            path = f"{name}[{index}] ({node})"
            if (first := paths.setdefault(node, path)) != path:
                shared = refusal(quoted(node), f"a unique value: {first} has the same one")
                yield f"{path}.node: {shared}"
    for index, each in enumerate(table.agents):
        path = f"agents[{index}] ({each.node})"
        needed, other = ("serial", "key") if each.kind == "certificate" else ("key", "serial")
        if getattr(each, needed) is None:
            yield f"{path}.{needed}: missing, expected {SERIAL if needed == 'serial' else KEY}"
        if getattr(each, other) is not None:
            found = refusal("another value", f"no such key with the kind {quoted(each.kind)}")
            yield f"{path}.{other}: {found}"
