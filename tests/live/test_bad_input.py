"""One daemon, and everything that a client may do wrong."""

from __future__ import annotations

import json
import socket
import uuid
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.engine.processes import RunningNode
from tests.live.daemons import Daemon, eventually, running_daemon
from tests.support.http_answers import Answer, read_answers

CHAT = "/v1/chat/completions"
# Nothing that a client wrote or proves itself with may be in the log.
PROMPT = "zanzibar-prompt"
KEY = "sk-zanzibar-key"
SECONDS = 10.0
MIB = 1024 * 1024

Json = dict[str, Any]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, fast_node: RunningNode) -> Iterator[Daemon]:
    """Run a daemon whose bodies may have 1 MiB."""
    folder = tmp_path_factory.mktemp("bad-input")
    with running_daemon(
        folder, {"node": fast_node.base_url}, gateway={"max_body_mb": 1}
    ) as running:
        yield running


@pytest.fixture(autouse=True)
def unharmed(daemon: Daemon) -> Iterator[None]:
    """See after each test that the daemon serves, crashed nowhere, and told no secrets."""
    yield
    assert 200 == chat(daemon, good_body()).status_code
    log = daemon.log()
    assert "Traceback" not in log
    assert not [line for line in daemon.lines() if line["level"] in ("error", "critical")]
    assert PROMPT not in log
    assert KEY not in log
    assert daemon.complaints() == ""


def good_body(**changes: Any) -> Json:
    messages = [{"role": "user", "content": PROMPT}]
    return {"model": "acme/chat", "messages": messages, **changes}


def chat(daemon: Daemon, body: Json | bytes, **headers: str) -> httpx2.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return daemon.http.post(
        CHAT, content=content, headers={"Authorization": f"Bearer {KEY}", **headers}
    )


def connected(daemon: Daemon) -> socket.socket:
    return socket.create_connection(daemon.address, timeout=SECONDS)


def read_to_end(connection: socket.socket) -> bytes:
    """Read until the daemon closes; a reset or ten silent seconds are an error."""
    received = bytearray()
    while piece := connection.recv(65536):
        received += piece
    return bytes(received)


def ask(daemon: Daemon, data: bytes) -> list[Answer]:
    """Send bytes on a connection of their own and return all answers, once it is closed."""
    with connected(daemon) as connection:
        connection.sendall(data)
        return read_answers(read_to_end(connection))


def head(method: str, target: bytes, *headers: bytes) -> bytes:
    """Return the head of a request after which the connection is to be closed."""
    line = method.encode() + b" " + target + b" HTTP/1.1"
    key = b"Authorization: Bearer " + KEY.encode()
    return b"\r\n".join([line, b"Host: cortex", b"Connection: close", key, *headers, b"", b""])


def assert_error(
    answer: Answer | httpx2.Response, status: int, code: str | None, param: str | None = None
) -> str:
    """Assert that the answer is this error in the OpenAI envelope; return its words."""
    if isinstance(answer, httpx2.Response):
        answer = Answer(answer.status_code, dict(answer.headers), answer.content)
    assert status == answer.status, answer
    error = answer.error
    assert (code, param) == (error["code"], error["param"])
    kind = "invalid_request_error" if status < 500 else "server_error"
    assert kind == error["type"]
    assert answer.headers["x-request-id"]
    message: str = error["message"]
    return message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "no body"),
        (b"  \n", "no body"),
        (b"hello, this is no JSON", "not valid JSON"),
        (b'{"model": "acme/chat", "messages": [{"role": "user", "content": "zan', "not valid JSON"),
        (b'{"model": NaN}', "not valid JSON"),
        (b'{"model": "\\ud8"}', "not valid JSON"),
        (b'{"model": "zanzibar-prompt\xff"}', "not valid JSON"),
        (b'{"model": 1e999}', "not valid JSON"),
        (b'{"model": ' + b"9" * 10_000 + b"}", "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b"\x1f\x8b\x08\x00zipped", "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"[1, 2]", "is an array; a JSON object is expected"),
        (b'"model"', "is a string; a JSON object is expected"),
        (b"null", "is null; a JSON object is expected"),
    ],
    ids=[
        "empty",
        "blank",
        "words",
        "half",
        "nan",
        "half-an-escape",
        "not-utf-8",
        "infinity",
        "many-digits",
        "byte-order-mark",
        "gzip",
        "deep-arrays",
        "deep-objects",
        "array",
        "string",
        "null",
    ],
)
def test_a_body_that_is_no_json_object_is_a_400(daemon: Daemon, body: bytes, words: str) -> None:
    """The error says what is wrong with the body as a whole, and quotes none of it."""
    message = assert_error(chat(daemon, body), 400, None)
    assert words in message
    assert PROMPT not in message


@pytest.mark.parametrize("route", [CHAT, "/v1/completions", "/v1/embeddings"])
@pytest.mark.parametrize("model", [{"model": 7}, {"model": ["acme/chat"]}, {"model": ""}])
def test_a_request_without_a_usable_model_is_a_400(daemon: Daemon, route: str, model: Json) -> None:
    """A model that is no text is told by the field's name on every route."""
    body = {"messages": [], "prompt": PROMPT, "input": PROMPT, **model}
    answer = daemon.http.post(route, json=body)
    assert "'model'" in assert_error(answer, 400, None, "model")


def test_an_unknown_model_is_a_404(daemon: Daemon) -> None:
    """The error names the model, and its name becomes no label."""
    message = assert_error(
        chat(daemon, good_body(model="no/such-model")), 404, "model_not_found", "model"
    )
    assert "'no/such-model'" in message
    assert "no/such" not in daemon.http.get(f"{daemon.metrics_url}/metrics").text


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": 7}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": 1, "stream": True}, "stream_options"),
        ({"n": 2, "stream": True}, "n"),
    ],
    ids=str,
)
def test_a_field_of_the_wrong_type_is_a_400_with_its_path(
    daemon: Daemon, changes: Json, param: str
) -> None:
    """The error's param is the path of the field at fault."""
    answer = chat(daemon, good_body(**changes))
    assert_error(answer, 400, answer.json()["error"]["code"], param)


def test_what_only_the_node_refuses_is_the_clients_400(daemon: Daemon) -> None:
    """A node's 422 for a field of a wrong type is an error of the request."""
    assert_error(chat(daemon, good_body(temperature="warm")), 400, None)


@pytest.mark.parametrize(
    "content_type",
    [
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "multipart/form-data",
        "text/plain",
        "nonsense",
        "",
    ],
)
def test_json_is_served_under_any_content_type(daemon: Daemon, content_type: str) -> None:
    """What curl sends by default is served, and so is anything else that is JSON."""
    answer = chat(daemon, good_body(), **{"Content-Type": content_type})
    assert 200 == answer.status_code
    assert_error(chat(daemon, b"a=1&b=2", **{"Content-Type": content_type}), 400, None)


def test_a_wrong_method_is_a_405_with_allow(daemon: Daemon) -> None:
    """The error and the header name the methods that the path takes."""
    for method, path, allowed in (
        ("GET", CHAT, "POST"),
        ("DELETE", "/v1/models/acme%2Fchat", "GET, HEAD"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("OPTIONS", "/v1/embeddings", "POST"),
        ("BREW", "/health", "GET, HEAD"),
    ):
        (answer,) = ask(daemon, head(method, path.encode()))
        message = assert_error(answer, 405, "method_not_allowed")
        assert allowed == answer.headers["allow"]
        assert method in message


@pytest.mark.parametrize(
    "target",
    [b"/v1/nothing", b"/v1/nothing/", b"/v2", b"/%2e%2e/etc/passwd", b"x:443", b"v1"],
)
def test_a_wrong_path_is_a_404(daemon: Daemon, target: bytes) -> None:
    """Where nothing is served the error says so, whatever the method."""
    for method in ("GET", "POST"):
        (answer,) = ask(daemon, head(method, target))
        assert "there is no route" in assert_error(answer, 404, "unknown_url")


def test_a_slash_at_the_end_reaches_the_route(daemon: Daemon) -> None:
    """Some clients add one to each path."""
    (answer,) = ask(daemon, head("GET", b"/v1/models/"))
    assert 200 == answer.status


@pytest.mark.parametrize("target", [b"/v1/%ff", b"/v1/models/%c3%28", b"/\xb0"])
def test_a_path_that_is_not_utf_8_is_a_400(daemon: Daemon, target: bytes) -> None:
    """A path that is no text is refused in the envelope."""
    (answer,) = ask(daemon, head("GET", target))
    assert "UTF-8" in assert_error(answer, 400, None)


def test_an_absolute_target_is_served(daemon: Daemon) -> None:
    """The form that clients of a proxy use is taken as RFC 9112 wants it."""
    (answer,) = ask(daemon, head("GET", b"http://other.example/v1/models"))
    assert 200 == answer.status
    (answer,) = ask(daemon, head("GET", b"http://other.example/v1/nothing"))
    assert_error(answer, 404, "unknown_url")


def test_the_asterisk_is_no_path(daemon: Daemon) -> None:
    """OPTIONS * gets an empty 200, anything else a 405 in the envelope."""
    (nothing,) = ask(daemon, head("OPTIONS", b"*"))
    assert (200, b"") == (nothing.status, nothing.body)
    (answer,) = ask(daemon, head("GET", b"*"))
    assert_error(answer, 405, "method_not_allowed")


def test_an_odd_host_and_request_id_are_no_fault(daemon: Daemon) -> None:
    """Bytes in headers that nobody needs to read do no harm; such a Host names no gateway."""
    odd = b"X-Request-ID: \xff\x80", b"Cookie: ;=;;\xff"
    for host, status in ((b"", 200), (b"Host: \xff..\xfe" + b"a" * 100, 403)):
        (answer,) = ask(daemon, head("GET", b"/v1/models", *odd, *[host] * bool(host)))
        assert status == answer.status


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_body_over_the_limit_is_a_413(daemon: Daemon, chunked: bool) -> None:
    """An ordinary client, which sends the whole body before it reads, gets to read the error."""
    body = json.dumps(good_body(padding=PROMPT * 600_000)).encode()
    assert len(body) > 8 * MIB
    pieces = (body[start : start + 65536] for start in range(0, len(body), 65536))
    answer = daemon.http.post(CHAT, content=pieces if chunked else body)
    message = assert_error(answer, 413, "request_too_large")
    assert "1 MiB (gateway.max_body_mb)" in message


def test_a_413_is_readable_while_the_body_is_still_sent(daemon: Daemon) -> None:
    """The error comes at the first sight of the length, and sending on does not destroy it."""
    length = 4 * MIB
    with connected(daemon) as connection:
        connection.sendall(head("POST", CHAT.encode(), b"Content-Length: %d" % length))
        first = connection.recv(65536)
        for _ in range(length // 65536):
            connection.sendall(b"x" * 65536)
        connection.shutdown(socket.SHUT_WR)
        (answer,) = read_answers(first + read_to_end(connection))
    assert_error(answer, 413, "request_too_large")


def test_a_body_over_the_limit_is_not_asked_for(daemon: Daemon) -> None:
    """A client that asks before it sends is refused, and never told to go on."""
    expect = b"Expect: 100-continue"
    (answer,) = ask(daemon, head("POST", CHAT.encode(), expect, b"Content-Length: 99999999"))
    assert_error(answer, 413, "request_too_large")


def test_a_body_within_the_limit_is_asked_for(daemon: Daemon) -> None:
    """A client that asks before it sends is told to go on."""
    body = json.dumps(good_body()).encode()
    with connected(daemon) as connection:
        length = b"Content-Length: %d" % len(body)
        connection.sendall(head("POST", CHAT.encode(), b"Expect: 100-continue", length))
        assert b"HTTP/1.1 100 Continue\r\n\r\n" == connection.recv(65536)
        connection.sendall(body)
        (answer,) = read_answers(read_to_end(connection))
    assert 200 == answer.status


def test_headers_over_the_limit_are_a_431(daemon: Daemon) -> None:
    """A header of 100 KB, 600 headers and an endless request line are refused alike."""
    long = head("GET", b"/v1/models", b"Cookie: " + b"x" * 100_000)
    many = head("GET", b"/v1/models", *[b"X-%d: 1" % number for number in range(600)])
    for data in (long, many, b"GET /" + b"x" * 100_000):
        (answer,) = ask(daemon, data)
        assert_error(answer, 431, "headers_too_large")


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"\x00\xff" * 1000 + b"\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /v1/models HTTP/9.9\r\n\r\n",
        b"POST /v1/models HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nab",
        b"POST /v1/models HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab",
        b"POST /v1/models HTTP/1.1\r\nContent-Length: +2\r\n\r\nab",
        b"POST /v1/models HTTP/1.1\r\nTransfer-Encoding: zanzibar\r\n\r\n",
        b"POST /v1/models HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nno number\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\nab",
        b"GET /v1/models HTTP/1.1\r\nno colon\r\n\r\n",
    ],
    ids=[
        "tls",
        "binary",
        "ssh",
        "http-2",
        "http-9",
        "two-lengths",
        "same-length-twice",
        "signed",
        "unknown-coding",
        "no-chunk-size",
        "chunks-and-length",
        "no-colon",
    ],
)
def test_what_is_no_http_is_a_400(daemon: Daemon, data: bytes) -> None:
    """Bytes that are no request, or one with two readings, get one error and the end."""
    (answer,) = ask(daemon, data)
    assert "not a valid HTTP/1.1 request" in assert_error(answer, 400, None)
    assert "close" == answer.headers["connection"]


def test_garbage_behind_a_good_request_is_refused_on_its_own(daemon: Daemon) -> None:
    """The good request is answered; the garbage gets a 400, and the connection ends."""
    body = json.dumps(good_body()).encode()
    request = head("POST", CHAT.encode(), b"Content-Length: %d" % len(body)) + body
    request = request.replace(b"Connection: close\r\n", b"")
    good, refusal = ask(daemon, request + b"\x01\x02 garbage\r\n\r\n")
    assert 200 == good.status
    assert_error(refusal, 400, None)


def test_http_1_0_is_served(daemon: Daemon) -> None:
    """A client of the old protocol gets a whole answer, and a stream without chunks."""
    for stream in (False, True):
        body = json.dumps(good_body(stream=stream)).encode()
        request = head("POST", CHAT.encode(), b"Content-Length: %d" % len(body)) + body
        (answer,) = ask(daemon, request.replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert 200 == answer.status
        assert "transfer-encoding" not in answer.headers
        assert answer.body.endswith(b"data: [DONE]\n\n" if stream else b"}")


def lines_up_to_now(daemon: Daemon) -> list[dict[str, Any]]:
    """Return the lines of all requests so far, the last of them that of one made here.

    A line is written once its answer is out, which the client may have by then.
    """
    name = uuid.uuid4().hex
    chat(daemon, good_body(), **{"X-Request-ID": name})

    def lines() -> list[dict[str, Any]] | None:
        found = daemon.lines("request")
        return found if found and found[-1]["request_id"] == name else None

    return eventually(lines, "the line of a request")


@pytest.mark.parametrize("part", ["head", "body", "chunk"])
def test_half_a_request_is_no_request(daemon: Daemon, part: str) -> None:
    """A client that leaves in the middle of sending costs nothing, and nobody answers it."""
    before = len(lines_up_to_now(daemon))
    body = json.dumps(good_body()).encode()
    whole = head("POST", CHAT.encode(), b"Content-Length: %d" % len(body))
    chunked = head("POST", CHAT.encode(), b"Transfer-Encoding: chunked")
    half = {
        "head": whole[:-20],
        "body": whole + body[:-10],
        "chunk": chunked + b"%x\r\n" % len(body) + body[:-10],
    }[part]
    with connected(daemon) as connection:
        connection.sendall(half)
        connection.shutdown(socket.SHUT_WR)
        assert b"" == read_to_end(connection)
    assert before + 1 == len(lines_up_to_now(daemon))


def test_the_metrics_side_takes_bad_input_too(daemon: Daemon) -> None:
    """The other listener survives garbage, a wrong path and a wrong method."""
    host, _, port = daemon.metrics_url.removeprefix("http://").rpartition(":")
    for data in (b"\x00\x01\r\n\r\n", head("GET", b"/%ff"), head("POST", b"/metrics")):
        with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
            connection.sendall(data)
            assert b"Traceback" not in read_to_end(connection)
    assert 200 == daemon.http.get(f"{daemon.metrics_url}/metrics").status_code


def test_a_log_line_names_the_request_and_not_its_content(daemon: Daemon) -> None:
    """Each request has one line with its id, model, node, outcome and tokens."""
    line = lines_up_to_now(daemon)[-1]
    assert ("acme/chat", "node", "200") == (line["model"], line["node"], line["outcome"])
    assert line["completion_tokens"] > 0
