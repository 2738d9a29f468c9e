"""The key in the headers of a request."""

from base64 import b64encode

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.access.credentials import LONGEST, NoKey, key_in, usual_key
from cortexd.access.secret import id_of, new_key

KEY, OTHER = new_key(), new_key()
PLAIN = KEY.encode()


def basic(user: str, password: str) -> bytes:
    return b64encode(f"{user}:{password}".encode())


class KeyInTests(SynchronousTestCase):
    def test_each_way_to_send_it(self) -> None:
        """Bearer, Basic with any user name, and x-api-key; a scheme in any case (RFC 9110 11.1)."""
        for scheme in (b"Bearer", b"bearer", b"BEARER"):
            assert KEY == key_in([scheme + b" " + PLAIN], [])
            assert KEY == key_in([scheme + b"   " + PLAIN + b" "], [])
        for user in ("", "me", "käthe"):
            assert KEY == key_in([b"Basic " + basic(user, KEY)], [])
            assert KEY == key_in([b"bAsIc " + basic(user, KEY).rstrip(b"=")], [])
        assert KEY == key_in([], [PLAIN])

    def test_the_short_way(self) -> None:
        """A key alone, as most clients send it, is found at once; all else takes the long way."""
        assert PLAIN == usual_key([b"Bearer " + PLAIN], [])
        assert PLAIN == usual_key([], [PLAIN])
        for user in ("", "me", "käthe"):
            assert PLAIN == usual_key([b"Basic " + basic(user, KEY)], [])
        for encoded in (basic("me", "x"), b64encode(PLAIN), b"!" + basic("me", KEY), b"="):
            assert usual_key([b"Basic " + encoded], []) is None
        assert usual_key([b"Basic " + basic("x" * LONGEST, KEY)], []) is None
        for authorization in (b"bearer " + PLAIN, b"Bearer " + PLAIN + b" ", b"Bearer x"):
            assert usual_key([authorization], []) is None
        assert usual_key([b"Bearer " + PLAIN], [PLAIN]) is None
        assert usual_key([b"Bearer " + PLAIN] * 2, []) is None
        assert usual_key([], []) is None

    def test_no_key(self) -> None:
        """The reason tells a client that sends no key from one that sends another server's."""
        assert NoKey.ABSENT is key_in([], [])
        for value in (b"", b"Bearer", b"Bearer sk-proj-abc", b"Digest " + PLAIN, PLAIN):
            assert NoKey.FOREIGN is key_in([value], [])
        for value in (b"Basic !", b"Basic " + b64encode(PLAIN), b"Basic " + basic(KEY, "x")):
            assert NoKey.FOREIGN is key_in([value], [])
        assert NoKey.FOREIGN is key_in([b"Bearer " + b" " * 2000 + PLAIN], [b"none"])

    def test_foreign_credentials_beside_it(self) -> None:
        """SDKs send a placeholder in the other header, and a proxy's password stands there too."""
        assert KEY == key_in([b"Bearer none"], [PLAIN])
        assert KEY == key_in([b"Bearer " + PLAIN], [b"dummy"])
        assert KEY == key_in([b"Basic " + basic("proxy", "secret"), b"Bearer " + PLAIN], [])

    def test_the_same_key_twice(self) -> None:
        """Claude Code sends its key in both headers."""
        assert KEY == key_in([b"Bearer " + PLAIN], [PLAIN])

    def test_two_different_keys(self) -> None:
        """None counts: what stands before us may have looked at the other one."""
        assert NoKey.SEVERAL is key_in([b"Bearer " + PLAIN], [OTHER.encode()])
        assert NoKey.SEVERAL is key_in([b"Bearer " + PLAIN, b"Bearer " + OTHER.encode()], [])

    VALUES = st.one_of(
        st.binary(max_size=40),
        st.sampled_from([PLAIN, b"Bearer " + PLAIN, b"Basic " + basic("u", KEY), b"Basic =="]),
        st.builds(bytes.__add__, st.sampled_from([b"Bearer ", b"Basic ", b"basic"]), st.binary()),
    )

    @settings(max_examples=60)
    @given(st.lists(VALUES, max_size=3), st.lists(VALUES, max_size=3))
    def test_any_bytes(self, authorization: list[bytes], api_key: list[bytes]) -> None:
        """A key is found or a reason given, and a key always has the form of ours."""
        found = key_in(authorization, api_key)
        usual = usual_key(authorization, api_key)
        if usual is not None and id_of(usual.decode("latin-1")) is not None:
            assert usual.decode() == found
        if isinstance(found, str):
            assert id_of(found) is not None
        else:
            assert (found is NoKey.ABSENT) == (not authorization and not api_key)
