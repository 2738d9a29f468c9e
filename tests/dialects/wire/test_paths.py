from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.wire.paths import canonical

SEGMENTS = st.lists(
    st.sampled_from([b"v1", b"chat", b"models", b"", b"running", b"acme", b"%2F", b"api"]),
    max_size=6,
)


class PathTests(SynchronousTestCase):
    def test_ids(self) -> None:
        """An id keeps its slashes, at its end too."""
        for path in (b"/v1/models//srv/small/", b"/v1/models/v1/v1/", b"/api/models/unload/a/"):
            assert path == canonical(path)
        assert b"/v1/models//srv/small/" == canonical(b"/models//srv/small/")

    def test_others(self) -> None:
        """A path that means no route of ours stays."""
        for path in (b"/", b"/v1", b"/running", b"/v2/chat", b"/chatter", b""):
            assert (path or b"/") == canonical(path)

    @given(SEGMENTS)
    def test_any_path(self, segments: list[bytes]) -> None:
        """The canonical path is its own, and begins with one slash."""
        found = canonical(b"/" + b"/".join(segments))

        assert found == canonical(found)
        assert found.startswith(b"/")
        assert not found.startswith(b"//")
