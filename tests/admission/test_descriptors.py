from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.admission.descriptors import (
    FEWEST_CLIENTS,
    FILES_OF_A_NODE,
    MOST_CLIENTS,
    OWN_FILES,
    files_needed,
    shares,
)

KEPT = 512


class SharesTests(SynchronousTestCase):
    def test_plenty(self) -> None:
        """With the files of the systemd unit, the default limit is as high as it gets."""
        given_shares = shares(65_536, 10, None, KEPT)

        assert (MOST_CLIENTS, False) == (given_shares.clients, given_shares.is_short)
        assert 409 == given_shares.kept

    def test_few(self) -> None:
        """With 200 files some 50 clients can be served at a time."""
        given_shares = shares(200, 2, None, KEPT)

        assert 40 <= given_shares.clients <= 60
        assert not given_shares.is_short

    def test_too_few(self) -> None:
        """A few clients are served in any case, and the shares say that the files may run out."""
        for nodes, wished in ((2, 1000), (100, None)):
            given_shares = shares(256, nodes, wished, KEPT)
            assert given_shares.is_short
            assert given_shares.clients >= FEWEST_CLIENTS

    def test_fewer_clients_than_the_least(self) -> None:
        """A configured limit is kept, however low it is."""
        assert 3 == shares(64, 50, 3, KEPT).clients == shares(65_536, 1, 3, KEPT).clients

    @given(
        st.integers(64, 2_000_000),
        st.integers(1, 1000),
        st.none() | st.integers(1, 100_000),
    )
    def test_sum(self, open_files: int, nodes: int, wished: int | None) -> None:
        """Unless they are short, all parts together never need more files than there are."""
        found = shares(open_files, nodes, wished, KEPT)

        assert found.clients >= 1
        assert found.kept >= 1
        if found.is_short:
            return
        parts = OWN_FILES + nodes * FILES_OF_A_NODE + found.metrics_clients
        clients = 2 * found.clients + found.surplus + found.refused
        kept = nodes * found.kept
        assert parts + clients + kept <= open_files
        assert found.clients <= (MOST_CLIENTS if wished is None else wished)

    @given(st.integers(1, 1000), st.integers(1, 100_000))
    def test_need(self, nodes: int, clients: int) -> None:
        """The number of files that is said to be enough is enough."""
        assert clients == shares(files_needed(nodes, clients), nodes, clients, KEPT).clients
