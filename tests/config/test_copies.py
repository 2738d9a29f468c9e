"""Labels of nodes, and what models say of their copies."""

from twisted.trial.unittest import SynchronousTestCase

from cortexd.config import reading
from tests.config.test_policies import MODEL_X, NODE_A, NODE_B
from tests.config.test_reading import text_refusal

LABEL = "a label of 1 to 64 characters of A-Z a-z 0-9 . _ -"
FAST_A = NODE_A + 'labels = ["fast"]\n'

WRONG_FILES = [
    (
        NODE_A + 'labels = ["two words"]',
        f'nodes[0] (a).labels[0]: found "two words", expected {LABEL}',
    ),
    (
        NODE_A + 'labels = ["x", "x"]',
        'nodes[0] (a).labels[1]: found "x" again, expected each label once',
    ),
    (
        FAST_A + MODEL_X + 'only_on = ["fsat"]',
        'models[0] (x).only_on[0]: found "fsat", expected a label of a node, such as "fast"',
    ),
    (
        FAST_A + MODEL_X + 'prefer = ["fast", "quiet"]',
        'models[0] (x).prefer[1]: found "quiet", expected a label of a node',
    ),
    (
        FAST_A + MODEL_X + 'only_on = ["fast", "fast"]',
        'models[0] (x).only_on[1]: found "fast" again, expected each label once',
    ),
    (
        NODE_A + NODE_B + MODEL_X + "min_copies = 2\nmax_copies = 1",
        "models[0] (x).min_copies: found 2, expected at most max_copies, which is 1",
    ),
    (
        FAST_A + NODE_B + MODEL_X + 'min_copies = 2\nonly_on = ["fast"]',
        "models[0] (x).min_copies: found 2, expected at most 1, the number of nodes that may load "
        "it",
    ),
    (
        FAST_A + NODE_B + MODEL_X + 'only_on = ["fast"]\npinned_on = ["b"]',
        'models[0] (x).only_on: found "fast", expected a list with a label of b, where the model '
        "is pinned",
    ),
    (
        NODE_A + NODE_B + MODEL_X + 'max_copies = 1\npinned_on = ["a", "b"]',
        "models[0] (x).max_copies: found 1, expected 0 or at least 2, the number of nodes where it "
        "is pinned",
    ),
]


class CopiesTests(SynchronousTestCase):
    def test_wrong(self) -> None:
        """A label that no node has, or copies that there cannot be, are refused in one line."""
        for text, words in WRONG_FILES:
            assert words == text_refusal(text), text

    def test_unmanaged(self) -> None:
        """A node that manages its models itself does not count among those that load copies."""
        node = NODE_B.replace("vram_mb = 100", 'engine = "anthropic"')
        assert (
            "models[0] (x).min_copies: found 2, expected at most 1, the number of nodes that may "
            "load it"
        ) == text_refusal(NODE_A + node + MODEL_X + "min_copies = 2")

    def test_right(self) -> None:
        """Labels, copies and preferences are read as they are written."""
        text = FAST_A + NODE_B + 'labels = ["slow", "quiet"]\n' + MODEL_X
        text += 'min_copies = 1\nmax_copies = 2\nonly_on = ["fast", "slow"]\nprefer = ["slow"]'
        config = reading.parse(text, "test")
        assert [("fast",), ("slow", "quiet")] == [node.labels for node in config.nodes]
        (model,) = config.models
        assert (1, 2) == (model.min_copies, model.max_copies)
        assert (("fast", "slow"), ("slow",)) == (model.only_on, model.prefer)
