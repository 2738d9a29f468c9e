"""The worst bodies that the limits let through, on each route, one after the other.

For each the figure is the longest turn of the daemon's reactor in CPU time, and for all together
those that were not answered as they should be. The last figures are the memory of the daemon after
30 bodies of 31 MiB beyond that before them, and the most memory with the process that translates.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.bodies import MEBIBYTE, MODEL, chat_node, post, resident_peak
from bench.daemons import Daemon, running_daemon
from bench.processes import get, resident_bytes
from bench.reliability.scene import Figure
from cortexd.dialects.wire.scan import LIGHT_VALUES, MAX_ITEMS, MAX_PARTS, MAX_TOOLS, MAX_VALUES

STALL_MS = 50.0
LARGE = 31 * MEBIBYTE
ROUNDS = 30
KEPT_MB = 64.0

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
COUNT, COUNT_INPUT = "/v1/messages/count_tokens", "/v1/responses/input_tokens"
COMPLETIONS, EMBEDDINGS = "/v1/completions", "/v1/embeddings"
IMAGES = "/v1/images/generations"

USER = b'{"role":"user","content":"a"}'
PART = b'{"type":"text","text":"a"}'
CALL = (
    b'{"role":"assistant","tool_calls":[{"id":"%d","type":"function","function":'
    b'{"name":"f","arguments":"{}"}}]},{"role":"tool","tool_call_id":"%d","content":"a"}'
)
USE = (
    b'{"role":"assistant","content":[{"type":"tool_use","id":"%d","name":"f","input":{}}]},'
    b'{"role":"user","content":[{"type":"tool_result","tool_use_id":"%d","content":"a"}]}'
)
TOOL = b'{"name":"f%d","input_schema":{"type":"object","properties":{"a":{"type":"string"}}}}'
FUNCTION = b'{"type":"function","function":{"name":"f%d","parameters":{"type":"object"}}}'


def listed(count: int, item: bytes) -> bytes:
    """Return so many times an item, as an array's elements; it may have its number in it."""
    numbers = item.count(b"%d")
    items = (item % ((number,) * numbers) if numbers else item for number in range(count))
    return b",".join(items)


def body(fields: bytes) -> bytes:
    """Return an object of these fields for the model."""
    return b'{"model":"%b","max_tokens":9,%b}' % (MODEL.encode(), fields)


def said(text: bytes) -> bytes:
    """Return messages of one user turn."""
    return b'"messages":[{"role":"user","content":"%b"}]' % text


def repeated(unit: bytes) -> bytes:
    """Return as much of a text as a body may have."""
    return unit * (LARGE // len(unit))


def parts() -> bytes:
    """Return messages that have as many parts as the limits allow."""
    message = b'{"role":"user","content":[%b]}' % listed(MAX_PARTS, PART)
    return b'"messages":[%b]' % listed(MAX_VALUES // (3 * MAX_PARTS + 10), message)


IMAGE = b'"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"%b"}}]}]'
SOURCE = (
    b'"messages":[{"role":"user","content":[{"type":"image","source":{"type":"base64",'
    b'"media_type":"image/png","data":"%b"}}]}]'
)
CASES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "chat, messages": (CHAT, lambda: b'"messages":[%b]' % listed(MAX_ITEMS, USER)),
    "chat, calls": (CHAT, lambda: b'"messages":[%b,%b]' % (USER, listed(35_000, CALL))),
    "chat, parts": (CHAT, parts),
    "chat, tools": (
        CHAT,
        lambda: said(b"a") + b',"tools":[%b]' % listed(MAX_TOOLS, FUNCTION),
    ),
    "chat, empty values": (CHAT, lambda: said(b"a") + b',"x":[%b]' % listed(240_000, b"{}")),
    "chat, an image": (CHAT, lambda: IMAGE % (b"data:image/png;base64," + repeated(b"A"))),
    "chat, lines": (CHAT, lambda: said(repeated(b"\\n"))),
    "chat, half pairs": (CHAT, lambda: said(repeated(b"\\ud800"))),
    "chat, brackets in text": (CHAT, lambda: said(repeated(b"[,{"))),
    "messages, messages": (MESSAGES, lambda: b'"messages":[%b]' % listed(MAX_ITEMS, USER)),
    "messages, calls": (MESSAGES, lambda: b'"messages":[%b,%b]' % (USER, listed(30_000, USE))),
    "messages, parts": (MESSAGES, parts),
    "messages, tools": (
        MESSAGES,
        lambda: said(b"a") + b',"tools":[%b]' % listed(MAX_TOOLS, TOOL),
    ),
    "messages, an image": (MESSAGES, lambda: SOURCE % repeated(b"A")),
    "messages, letters": (MESSAGES, lambda: said(repeated("é".encode()))),
    "count, messages": (COUNT, lambda: b'"messages":[%b]' % listed(MAX_ITEMS, USER)),
    "count, an image": (COUNT, lambda: SOURCE % repeated(b"A")),
    "responses, input": (RESPONSES, lambda: b'"input":[%b]' % listed(MAX_ITEMS, USER)),
    "responses, text": (RESPONSES, lambda: b'"input":"%b"' % repeated(b"\\n")),
    "responses, count": (COUNT_INPUT, lambda: b'"input":[%b]' % listed(MAX_ITEMS, USER)),
    "responses, just light": (
        RESPONSES,
        lambda: b'"input":[%b]' % listed((LIGHT_VALUES - 10) // 3, USER),
    ),
    "completions": (COMPLETIONS, lambda: b'"stream":true,"prompt":"%b"' % repeated(b"a")),
    "embeddings, inputs": (EMBEDDINGS, lambda: b'"input":[%b]' % listed(MAX_ITEMS, b'"a"')),
    "embeddings, tokens": (EMBEDDINGS, lambda: b'"input":[[%b]]' % listed(490_000, b"1")),
    "images": (IMAGES, lambda: b'"prompt":"%b"' % repeated(b"a")),
}
DEEP = b"[" * LARGE
"""A body that the limits do not let through."""


def asked(daemon: Daemon, path: str, sent: bytes) -> tuple[int, bytes, float]:
    """POST a body; return status, answer, and the longest turn of the reactor in ms."""
    began_at = time.monotonic()
    status, answer = post(daemon.address, path, sent)
    get(daemon.address, "/health")
    return status, answer, 1000 * daemon.longest_turn(began_at).cpu


def continued(daemon: Daemon) -> list[tuple[str, int, float]]:
    """Continue a stored response of the largest size, and list its input."""
    text = repeated(b"a")[: -MEBIBYTE // 2]
    status, answer, turn = asked(daemon, RESPONSES, body(b'"input":"%b"' % text))
    found = [("responses, stored", status, turn)]
    if status == HTTPStatus.OK:
        name = json.loads(answer)["id"].encode()
        more = body(b'"input":"a","previous_response_id":"%b"' % name)
        status, _, turn = asked(daemon, RESPONSES, more)
        found.append(("responses, continued", status, turn))
        began_at = time.monotonic()
        status, _ = get(daemon.address, f"{RESPONSES}/{name.decode()}/input_items")
        get(daemon.address, "/health")
        turn = 1000 * daemon.longest_turn(began_at).cpu
        found.append(("responses, items listed", status, turn))
    return found


def run(options: argparse.Namespace) -> list[Figure]:
    """Send each body once, and one of them often."""
    figures: list[Figure] = []
    unexpected = 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        nodes = {"a": stack.enter_context(chat_node())}
        daemon = stack.enter_context(running_daemon(folder, nodes, path="/ready"))
        pid = daemon.child.pid
        peak = stack.enter_context(resident_peak(pid))
        for name, (path, fields) in CASES.items():
            status, answer, turn = asked(daemon, path, body(fields()))
            figures.append(Figure(f"{name}: longest turn", turn, "ms", STALL_MS))
            if status not in (HTTPStatus.OK, HTTPStatus.BAD_GATEWAY):
                unexpected += 1
                print(name, status, answer[:300])
        for name, status, turn in continued(daemon):
            figures.append(Figure(f"{name}: longest turn", turn, "ms", STALL_MS))
            unexpected += status != HTTPStatus.OK
        status, _, turn = asked(daemon, CHAT, DEEP)
        figures.append(Figure("refused nesting: longest turn", turn, "ms", STALL_MS))
        unexpected += status != HTTPStatus.BAD_REQUEST
        before = resident_bytes([pid])
        sent = body(said(repeated(b"a")))
        for _ in range(ROUNDS):
            unexpected += asked(daemon, CHAT, sent)[0] != HTTPStatus.OK
        kept = resident_bytes([pid]) - before
    return [
        *figures,
        Figure("bodies not answered as they should be", float(unexpected), "", 0.0),
        Figure("memory kept after 30 bodies of 31 MiB", kept / MEBIBYTE, "MiB", KEPT_MB),
        Figure("most memory of the daemon", peak.bytes / MEBIBYTE, "MiB"),
        Figure("most memory with its process", peak.with_children / MEBIBYTE, "MiB"),
    ]
