"""Bodies of requests, good, bad and broken, and what must hold of the reading of any of them."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hypothesis import strategies as st

from cortexd.dialects.wire.exchange import ONLY_MISTRALRS, Exchange, ParsedRequest
from cortexd.dialects.wire.json_values import decode
from cortexd.dialects.wire.openai_errors import error_body
from cortexd.dialects.wire.profile import MISTRALRS, Profile
from cortexd.errors import BadRequest, CortexError

MODEL = "acme/chat"

_ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=8)
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(-(10**30), 10**30),
    st.floats(),
    _ANY_TEXT,
)
JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)

ANY_ANSWER = st.binary(max_size=30) | JSON_VALUES.map(lambda value: json.dumps(value).encode())
"""What a node may answer: JSON, or bytes that are none."""


def _dump(value: object, ascii_only: bool) -> bytes:
    """Encode as Python does it: NaN, Infinity and lone surrogates go in, escaped or raw."""
    return json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")


def _damage(body: bytes, start: int, stop: int, patch: bytes) -> bytes:
    return body[: start % (len(body) + 1)] + patch + body[stop % (len(body) + 1) :]


def _duplicate(body: bytes, key: str, value: object) -> bytes:
    return b"{" + _dump(key, True) + b":" + _dump(value, True) + b"," + body[1:]


def _nest(body: bytes, key: str, depth: int, opening: bytes, closing: bytes) -> bytes:
    nest = opening * depth + b"1" + closing * depth
    return body[:-1] + b"," + _dump(key, True) + b":" + nest + b"}"


def bodies(fields: Mapping[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[bytes]:
    """Return bodies of a request whose known fields and their good values are ``fields``.

    Some are good; in others fields are of wrong types, twice there, nested up to beyond what
    can be read, or the bytes are damaged or were never JSON.
    """
    keys = st.sampled_from(sorted(fields))
    good = st.fixed_dictionaries(dict(fields))
    wrong = st.fixed_dictionaries(
        {}, optional={name: values | JSON_VALUES for name, values in fields.items()}
    )
    whole = st.builds(_dump, good | wrong, st.booleans())
    return st.one_of(
        whole,
        st.builds(_duplicate, st.builds(_dump, good, st.booleans()), keys, JSON_VALUES),
        st.builds(
            lambda body, key, depth, pair: _nest(body, key, depth, *pair),
            st.builds(_dump, good, st.booleans()),
            keys,
            st.integers(0, 1_100),
            st.sampled_from([(b"[", b"]"), (b'{"content":', b"}")]),
        ),
        st.builds(_damage, whole, st.integers(0), st.integers(0), st.binary(max_size=4)),
        st.builds(_dump, JSON_VALUES, st.booleans()),
        st.binary(max_size=20),
    )


def assert_read_or_refused(
    read_request: Callable[[bytes], ParsedRequest],
    body: bytes,
    profiles: Iterable[Profile] = ONLY_MISTRALRS,
) -> None:
    """Assert that the body is a request that can be sent, or is refused as the client's mistake."""
    found = _exchange(read_request, body, profiles)
    if isinstance(found, CortexError):
        assert 400 <= found.status < 500, found
        assert found.message
        assert "invalid_request_error" == decode(error_body(found))["error"]["type"]
    else:
        assert "org/target" == decode(found.first.body)["model"]
        assert found.streams == found.first.make_responder().streams


def _exchange(
    read_request: Callable[[bytes], ParsedRequest], body: bytes, profiles: Iterable[Profile]
) -> Exchange | CortexError:
    try:
        return read_request(body).exchange("org/target", profiles, random_id="x", now=1.5)
    except CortexError as error:
        return error


def refusal(
    read_request: Callable[[bytes], ParsedRequest],
    profile: Profile = MISTRALRS,
    /,
    **fields: object,
) -> BadRequest:
    """Return why a request with these fields is refused, for an upstream of this profile."""
    try:
        found = read_request(json.dumps({"model": MODEL} | fields).encode())
        found.exchange("org/target", [profile], random_id="x", now=0)
    except BadRequest as error:
        return error
    raise AssertionError(f"not refused: {found}")


def upstream_body(
    read_request: Callable[[bytes], ParsedRequest],
    profile: Profile = MISTRALRS,
    /,
    **fields: object,
) -> Any:
    """Return what a node of this profile is sent for these fields, less its model."""
    request = read_request(json.dumps({"model": MODEL} | fields).encode())
    sent = decode(request.exchange("org/target", [profile], random_id="x", now=0).first.body)
    assert "org/target" == sent.pop("model")
    return sent
