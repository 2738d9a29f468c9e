"""The cases of keys: headers with right, wrong, foreign and broken credentials.

The seed and a case's number alone determine it.
"""

from __future__ import annotations

import string
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from bench.simulator.fleets import seeded
from cortexd.access.keys import Key, Scope
from cortexd.access.secret import ID_LENGTH, SECRET_LENGTH, hashed, id_of

CHEAP = 1
"""The cost of the hashes: scrypt with N = 2."""

LARGE = 80_000
"""The length of a body that is not read without a valid key."""

_LARGE_SHARE = 0.02
_FOREIGN = (
    *(b"Authorization: Bearer none", b"Authorization: Basic dXNlcjpzZWNyZXQ=", b"X-Api-Key: x"),
    *(b"Authorization:", b"Authorization: Digest username=a, nonce=b", b"X-Api-Key:"),
    *(b"Authorization: Bearer sk-proj-0123456789", b"X-Api-Key: sk-ant-api03-0123456789"),
    *(b"Authorization: Negotiate YII=", b"Authorization: Bearer " + b"x" * 2000),
)
_ROUTES = (
    (b"GET", b"/v1/models", {Scope.INFER, Scope.READ}),
    (b"GET", b"/running", {Scope.READ}),
    (b"POST", b"/v1/messages/count_tokens", {Scope.INFER}),
    (b"POST", b"/v1/responses/input_tokens", {Scope.INFER}),
    (b"POST", b"/api/models/unload", {Scope.CONTROL}),
)
_BODIES = {
    b"/v1/messages/count_tokens": b'{"model":"acme/chat","messages":'
    b'[{"role":"user","content":"%b"}]}',
    b"/v1/responses/input_tokens": b'{"model":"acme/chat","input":"%b"}',
    b"/api/models/unload": b"",
}
_NOISE = (b"\x00", b"\x7f", b"\xff", b"\xc3\xa9", b"\t", b" ", b",", b";", b"=", b":", b"\r", b"\n")
_WITHIN_A_LINE = bytes(set(range(256)) - {0, 10, 13})


@dataclass(frozen=True, slots=True)
class Text:
    """The text of a key that the gateway has, and what it may do; nothing once it has expired."""

    text: str
    scopes: frozenset[Scope]


class Ring:
    """The keys of the fuzzed gateway, made from a seed."""

    def __init__(self, seed: int) -> None:
        random = seeded("keys", seed)
        both, one, every = (
            frozenset({Scope.INFER, Scope.READ}),
            frozenset({Scope.READ}),
            frozenset(Scope),
        )
        self.texts = [
            Text(_text(random), scopes) for scopes in (both, one, every, both, frozenset())
        ]
        alice, reader, boss, former, late = self.texts
        self.keys = (
            _key("alice", alice.text, both, former=former.text),
            _key("reader", reader.text, one),
            _key("boss", boss.text, every),
            _key("late", late.text, every, expires=1.0),
        )


@dataclass(frozen=True, slots=True)
class KeyCase:
    """One request; ``status`` is the only right one, ``None`` for headers that may be broken.

    ``secrets`` are the keys that stand in it somewhere, also where none belongs.
    """

    number: int
    kind: str
    path: str
    data: bytes
    status: int | None
    secrets: tuple[Text, ...]


class KeyCases:
    """The cases of one seed, by their numbers."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.ring = Ring(seed)

    def __getitem__(self, number: int) -> KeyCase:
        random = seeded("key case", self._seed, number)
        method, path, scopes = random.choice(_ROUTES)
        kind, lines, texts = self._lines(random)
        status: int | None = 401
        if kind == "broken":
            status = None
        elif kind in ("right", "right twice"):
            status = 200 if texts[0].scopes & scopes else 403 if texts[0].scopes else 401
        target = path
        if kind == "in the URL":
            target = path + b"?key=%b&api_key=%b" % (2 * (texts[0].text.encode(),))
        content = _content(random, path)
        if method == b"POST":
            lines = [*lines, b"Content-Length: %d" % len(content)]
        data = b"\r\n".join(
            [b"%b %b HTTP/1.1" % (method, target), b"Host: a", *lines, b"", content]
        )
        return KeyCase(number, kind, path.decode(), data, status, tuple(texts))

    def _lines(self, random: Random) -> tuple[str, list[bytes], list[Text]]:
        """Return the kind of a case, its headers and the keys in them."""
        texts = self.ring.texts
        found = random.random()
        if found < 0.25:
            key = random.choice(texts)
            return "right", _among_foreign(random, [_sent(random, key.text)]), [key]
        if found < 0.30:
            key = random.choice(texts)
            return "right twice", [_sent(random, key.text), _sent(random, key.text)], [key]
        if found < 0.35:
            two = random.sample(texts, 2)
            return "two keys", [_sent(random, each.text) for each in two], two
        if found < 0.45:
            return "foreign", _among_foreign(random, []), []
        if found < 0.60:
            key = random.choice(texts)
            return "wrong", _among_foreign(random, [_sent(random, _wrong(random, key.text))]), []
        if found < 0.65:
            key = random.choice(texts)
            line = random.choice(
                [b"Cookie: key=%b", b"X-Key: %b", b"Proxy-Authorization: Bearer %b"]
            )
            return "elsewhere", [line % key.text.encode()], [key]
        if found < 0.70:
            return "in the URL", [], [random.choice(texts)]
        key = random.choice(texts)
        lines = [_sent(random, key.text) for _ in range(random.randint(1, 3))]
        return "broken", [_broken(random, line) for line in lines], [key]


def may_pass(case: KeyCase) -> bool:
    """Return whether one of the keys stands in the headers of a case, plainly or as a password."""
    head = case.data.partition(b"\r\n\r\n")[0]
    plain = [head]
    for word in head.split():
        try:
            plain.append(b64decode(word + b"=" * (-len(word) % 4)))
        except ValueError:
            continue
    return any(each.text.encode() in part for each in case.secrets for part in plain)


def _text(random: Random) -> str:
    letters, all_letters = string.ascii_lowercase + string.digits, string.ascii_letters
    found = "".join(random.choices(letters, k=ID_LENGTH))
    return f"sk-cortex-{found}-{''.join(random.choices(all_letters, k=SECRET_LENGTH))}"


def _key(
    name: str,
    text: str,
    scopes: frozenset[Scope],
    *,
    expires: float | None = None,
    former: str | None = None,
) -> Key:
    return Key(
        name,
        id_of(text) or "",
        hashed(text, CHEAP),
        scopes=scopes,
        expires=expires,
        former_id=former and id_of(former),
        former_hash=former and hashed(former, CHEAP),
        former_until=None if former is None else 1e12,
    )


def _any_case(random: Random, text: bytes) -> bytes:
    return bytes(
        random.choice((byte, byte ^ 32)) if 65 <= byte & ~32 <= 90 else byte for byte in text
    )


def _sent(random: Random, key: str) -> bytes:
    """Return a header with a key, in one of the ways to send it."""
    way = random.randrange(3)
    if way == 0:
        return b"X-Api-Key: " + key.encode()
    blanks = b" " * random.choice((1, 1, 1, 2, 5))
    if way == 1:
        return b"Authorization: " + _any_case(random, b"Bearer") + blanks + key.encode()
    user = bytes(random.choices(_WITHIN_A_LINE.replace(b":", b""), k=random.randrange(8)))
    both = b64encode(user + b":" + key.encode())
    return b"Authorization: " + _any_case(random, b"Basic") + blanks + both


def _among_foreign(random: Random, lines: Sequence[bytes]) -> list[bytes]:
    found = [*lines, *random.sample(_FOREIGN, random.randrange(3))]
    random.shuffle(found)
    return found


def _wrong(random: Random, key: str) -> str:
    """Return a key that differs from another in one letter of its id or its secret."""
    at = random.randrange(len("sk-cortex-"), len(key))
    if key[at] == "-":
        at += 1
    return key[:at] + ("0" if key[at] != "0" else "1") + key[at + 1 :]


def _broken(random: Random, line: bytes) -> bytes:
    """Return a header with some of its bytes cut, doubled, or replaced by noise."""
    for _ in range(random.randint(1, 3)):
        at, end = sorted((random.randrange(len(line) + 1), random.randrange(len(line) + 1)))
        match random.randrange(5):
            case 0:
                line = line[:at] + line[end:]
            case 1:
                line = line[:end] + line[at:]
            case 2:
                line = line[:at] + random.choice(_NOISE) + line[at + 1 :]
            case 3:
                line = (
                    line[:at] + bytes(random.choices(range(256), k=random.randrange(9))) + line[at:]
                )
            case _:
                line = line[:at] + line[at:end].swapcase() + line[end:]
    # An empty line would end the head, and what follows would be another request.
    while b"\r\n\r\n" in line or line[:2] == b"\r\n" or line[-2:] == b"\r\n":
        line = line.replace(b"\r\n", b"\r")
    return line or b"X: y"


def _content(random: Random, path: bytes) -> bytes:
    body = _BODIES.get(path, b"")
    if b"%b" not in body:
        return body
    return body % (b"x" * (LARGE if random.random() < _LARGE_SHARE else 5))
