"""Pins, footprints and what a node has room for."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from cortexd.config import reading
from cortexd.config.reading import ConfigError
from cortexd.config.settings import (
    Config,
    EvictionSettings,
    GatewaySettings,
    ModelSettings,
    NodeSettings,
    SchedulingSettings,
)
from tests.config.test_mutations import toml_pairs
from tests.config.test_reading import text_refusal

NODE_A = '[[nodes]]\nname = "a"\nendpoint = "http://a:1"\nvram_mb = 100\n'
NODE_B = '[[nodes]]\nname = "b"\nendpoint = "http://b:1"\nvram_mb = 100\n'
MODEL_X = '[[models]]\nid = "x"\n'
MODEL_Y = '[[models]]\nid = "y"\n'
ROOM = "expected at most 80, which is vram_mb minus reserve_mb"

# Files whose pins, footprints and limits do not go together, and the one line said about each.
WRONG_FILES = [
    (
        NODE_A + 'power = { wake = "00:1b:21:3a:4f:5e" }',
        "nodes[0] (a).power.suspend: missing, expected a command, as there are no agents without "
        "agents.listen",
    ),
    (
        NODE_A + "reserve_mb = 100",
        "nodes[0] (a).reserve_mb: found 100, expected less than vram_mb, which is 100",
    ),
    (
        NODE_A + 'reserve_mb = 20\nmodels = { "org/x" = 81 }',
        f'nodes[0] (a).models."org/x": found 81, {ROOM}',
    ),
    (
        NODE_A + 'models = { "big" = 1 }\n' + MODEL_X + 'aliases = ["big"]',
        'nodes[0] (a).models.big: found "big", expected a model\'s id: this is an alias of "x"',
    ),
    (
        NODE_A + 'reserve_mb = 20\npinned = ["x"]\n' + MODEL_X + "vram_mb = 81",
        f"nodes[0] (a): found pinned models of 81 MiB (x 81), {ROOM}",
    ),
    (
        NODE_A + "reserve_mb = 20\n" + MODEL_X + 'vram_mb = 81\npinned_on = ["a"]',
        f"nodes[0] (a): found pinned models of 81 MiB (x 81), {ROOM}",
    ),
    (
        NODE_A
        + 'reserve_mb = 20\npinned = ["z", "y"]\nmodels = { y = 40 }\n'
        + MODEL_X
        + 'vram_mb = 41\npinned_on = ["a"]\n'
        + MODEL_Y
        + "vram_mb = 1",
        f"nodes[0] (a): found pinned models of 81 MiB (y 40, x 41), {ROOM}",
    ),
    (
        NODE_A + 'max_resident = 1\npinned = ["y"]\n' + MODEL_X + 'pinned_on = ["a"]',
        "nodes[0] (a).max_resident: "
        "found 1, expected 0 or at least 2, the number of models pinned there",
    ),
    (
        NODE_A + 'pinned = ["x", "y", "x"]',
        'nodes[0] (a).pinned[2]: found "x" again, expected each name once',
    ),
    (
        NODE_A + MODEL_X + 'pinned_on = ["a", "a"]',
        'models[0] (x).pinned_on[1]: found "a" again, expected each name once',
    ),
    (
        NODE_A + MODEL_X + 'pinned_on = ["a", "gpu"]',
        'models[0] (x).pinned_on[1]: found "gpu", expected the name of a node',
    ),
    (
        NODE_A.replace('"a"', '"gpu-1"') + MODEL_X + 'pinned_on = ["gpu_1"]',
        'models[0] (x).pinned_on[0]: found "gpu_1", expected the name of a node, such as "gpu-1"',
    ),
]

SIZES = st.integers(1, 60)
MODEL_IDS = ("x", "org/y", "z")
NODE_NAMES = ("a", "b", "c")


def subset(names: tuple[str, ...]) -> st.SearchStrategy[list[str]]:
    """Draw some of the names, each once, in any order."""
    return st.lists(st.sampled_from(names), unique=True)


@st.composite
def fleets(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the tables of a file, right each alone, whose pins need not fit."""
    names = draw(subset(NODE_NAMES).filter(bool))
    nodes = [
        {
            "name": name,
            "endpoint": f"http://{name}:1",
            "vram_mb": draw(st.integers(1, 100)),
            "reserve_mb": draw(st.integers(0, 20)),
            "max_resident": draw(st.sampled_from([0, 0, 1, 2])),
            "pinned": draw(subset(MODEL_IDS)),
            "models": draw(st.dictionaries(st.sampled_from(MODEL_IDS), SIZES, max_size=2)),
        }
        for name in names
    ]
    models = [
        {"id": model, "pinned_on": draw(subset(tuple(names)))}
        | draw(st.fixed_dictionaries({}, optional={"vram_mb": SIZES}))
        for model in draw(subset(MODEL_IDS))
    ]
    return {"nodes": nodes, "models": models}


def pinned(tables: dict[str, Any], node: dict[str, Any]) -> set[str]:
    """Return what a file pins on a node, told from the file alone."""
    named = {model["id"] for model in tables["models"] if node["name"] in model["pinned_on"]}
    return named | set(node["pinned"])


def footprint(tables: dict[str, Any], node: dict[str, Any], model: str) -> int | None:
    """Return what a file says of a model's size on a node, told from the file alone."""
    sizes = {entry["id"]: entry.get("vram_mb") for entry in tables["models"]}
    size: int | None = (sizes | node["models"]).get(model)
    return size


def has_room(tables: dict[str, Any], node: dict[str, Any]) -> bool:
    """Tell whether a node can do what a file wants of it, told from the file alone."""
    budget, pins = node["vram_mb"] - node["reserve_mb"], pinned(tables, node)
    return (
        budget > 0
        and all(size <= budget for size in node["models"].values())
        and sum(footprint(tables, node, model) or 0 for model in pins) <= budget
        and (node["max_resident"] == 0 or len(pins) <= node["max_resident"])
    )


class PolicyTests(SynchronousTestCase):
    def test_wrong_files(self) -> None:
        """Each kind of contradiction has one line that says what is wrong where."""
        for text, expected in WRONG_FILES:
            assert expected == text_refusal(text)

    def test_pins(self) -> None:
        """A node's pins are those it names, then those that name it, each once and in order."""
        text = NODE_A + 'pinned = ["z", "y"]\n' + NODE_B
        text += MODEL_X + 'pinned_on = ["b", "a"]\n' + MODEL_Y + 'pinned_on = ["a"]\n'
        expected = {"a": ("z", "y", "x"), "b": ("x",)}
        assert expected == reading.parse(text, "x").pins

    def test_node_without_pins(self) -> None:
        """A node on which nothing is pinned has no pins, rather than no entry."""
        expected: dict[str, tuple[str, ...]] = {"a": ()}
        assert expected == reading.parse(NODE_A, "x").pins

    def test_footprint(self) -> None:
        """What a node says of a model's size counts before what the model says of itself."""
        text = NODE_A + 'models = { "x" = 7, "y" = 8 }\n' + NODE_B + MODEL_X + "vram_mb = 5"
        loaded = reading.parse(text, "x")
        expected = {
            ("a", "x"): 7,
            ("a", "y"): 8,
            ("a", "z"): None,
            ("b", "x"): 5,
            ("b", "y"): None,
        }
        assert expected == {key: loaded.footprint_mb(*key) for key in expected}

    def test_whole_budget(self) -> None:
        """Pins may fill all that the reserve leaves, and be as many as max_resident allows."""
        text = NODE_A + 'reserve_mb = 20\nmax_resident = 2\npinned = ["x", "y"]\n'
        loaded = reading.parse(text + "models = { x = 30, y = 50 }", "x")
        expected = (80, ("x", "y"))
        assert expected == (loaded.nodes[0].budget_mb, loaded.pins["a"])

    def test_values(self) -> None:
        """A file in which every policy is set means what it says."""
        text = "[gateway]\nallow_http_control = true\n[eviction]\ninterval = 1\nidle_ttl = 0.5\n"
        text += "[scheduling]\nmax_queue = 1\nqueue_timeout = 2\nmax_wait = 3\nmin_residency = 0\n"
        text += NODE_A + "reserve_mb = 99\nmax_resident = 4\n[nodes.models]\n'org/y' = 1\n"
        text += MODEL_X + 'priority = -5\nttl = 0\npinned_on = ["a"]'
        expected = Config(
            gateway=GatewaySettings(allow_http_control=True),
            eviction=EvictionSettings(interval=1.0, idle_ttl=0.5),
            scheduling=SchedulingSettings(
                max_queue=1, queue_timeout=2.0, max_wait=3.0, min_residency=0.0
            ),
            nodes=(
                NodeSettings(
                    name="a",
                    endpoint="http://a:1",
                    vram_mb=100,
                    reserve_mb=99,
                    max_resident=4,
                    models={"org/y": 1},
                ),
            ),
            models=(ModelSettings(id="x", priority=-5, ttl=0.0, pinned_on=("a",)),),
        )
        assert expected == reading.parse(text, "x")

    @settings(max_examples=300)
    @given(fleets())
    def test_room(self, tables: dict[str, Any]) -> None:
        """A file loads exactly if every node has room for what is wanted of it."""
        fits = [has_room(tables, node) for node in tables["nodes"]]
        try:
            loaded = reading.parse("\n".join(toml_pairs(tables)), "drawn")
        except ConfigError as refused:
            line = str(refused)
        else:
            line = ""
            for node in tables["nodes"]:
                pins = loaded.pins[node["name"]]
                assert sorted(pinned(tables, node)) == sorted(pins)
                for model in MODEL_IDS:
                    known = loaded.footprint_mb(node["name"], model)
                    assert footprint(tables, node, model) == known
        first = "" if all(fits) else f"drawn: nodes[{fits.index(False)}] ("
        self.assertEqual(first, line[: len(first)] or line)


class DialectTests(SynchronousTestCase):
    def test_a_messages_node_needs_no_memory(self) -> None:
        """A node of the dialect "anthropic" needs no vram_mb; every other one does."""
        node = '[[nodes]]\nname = "a"\nendpoint = "http://a:1"\n'
        loaded = reading.parse(node + 'dialect = "anthropic"', "f").nodes[0]

        assert ("anthropic", None, 0) == (loaded.runs.name, loaded.vram_mb, loaded.budget_mb)
        reserving = reading.parse(node + 'dialect = "anthropic"\nreserve_mb = 5', "f").nodes[0]
        assert 0 == reserving.budget_mb
        assert text_refusal(node) == (
            "nodes[0] (a).vram_mb: missing, expected an integer of MiB > 0"
        )

    def test_what_a_messages_node_cannot_be_told(self) -> None:
        """Its models are its own business: a key that would have us share them out is refused."""
        node = '[[nodes]]\nname = "a"\nendpoint = "http://a:1"\ndialect = "anthropic"\n'
        left_out = (
            'expected no such key with the dialect "anthropic": '
            "such a server loads and unloads models by itself"
        )
        for text, expected in (
            (node + 'pinned = ["x"]', f"pinned: found a list, {left_out}"),
            (node + "max_resident = 2", f"max_resident: found 2, {left_out}"),
            (node + "models = { x = 5 }", f"models: found a table, {left_out}"),
            (
                node + 'anthropic = "native"',
                'anthropic: found "native", expected no such key with the dialect "anthropic": '
                "such a server always gets Messages unchanged",
            ),
        ):
            assert f"nodes[0] (a).{expected}" == text_refusal(text)
        assert (
            'models[0] (x).pinned_on[0]: found "a", expected the name of a node of the dialect '
            '"openai": such a server loads and unloads models by itself'
        ) == text_refusal(node + MODEL_X + 'pinned_on = ["a"]')

    def test_an_engine(self) -> None:
        """A node has the engine that its entry names, or the one that its dialect means."""
        for lines, name in (
            ("", "mistralrs"),
            ('engine = "mistralrs"', "mistralrs"),
            ('engine = "mistralrs"\ndialect = "openai"\nanthropic = "native"', "mistralrs"),
            ('dialect = "openai"', "mistralrs"),
            ('dialect = "anthropic"', "anthropic"),
            ('engine = "anthropic"', "anthropic"),
            ('engine = "anthropic"\ndialect = "anthropic"', "anthropic"),
        ):
            assert name == reading.parse(NODE_A + lines, "f").nodes[0].runs.name, lines
        assert 'nodes[0] (a).engine: found "x", expected "mistralrs" or "anthropic"' == (
            text_refusal(NODE_A + 'engine = "x"')
        )

    def test_an_engine_of_another_dialect(self) -> None:
        """An engine and a dialect that contradict each other are refused."""
        for engine, dialect in (("mistralrs", "anthropic"), ("anthropic", "openai")):
            text = f'{NODE_A}engine = "{engine}"\ndialect = "{dialect}"\n'
            assert (
                f'nodes[0] (a).dialect: found "{dialect}", expected no such key with the engine '
                f'"{engine}"'
            ) == text_refusal(text)

    def test_what_an_engine_that_takes_no_orders_cannot_be_told(self) -> None:
        """The words name the engine where the node's entry does."""
        node = '[[nodes]]\nname = "a"\nendpoint = "http://a:1"\nengine = "anthropic"\n'
        assert reading.parse(node, "f").nodes[0].vram_mb is None
        left_out = 'expected no such key with the engine "anthropic": such a server'
        for line, expected in (
            (
                "max_resident = 2",
                f"max_resident: found 2, {left_out} loads and unloads models by itself",
            ),
            (
                'anthropic = "native"',
                f'anthropic: found "native", {left_out} always gets Messages unchanged',
            ),
        ):
            assert f"nodes[0] (a).{expected}" == text_refusal(node + line)
        assert (
            'models[0] (x).pinned_on[0]: found "a", expected the name of a node of the engine '
            '"mistralrs": such a server loads and unloads models by itself'
        ) == text_refusal(node + MODEL_X + 'pinned_on = ["a"]')

    def test_an_answer_longer_than_the_window(self) -> None:
        """No answer is longer than what a prompt and its answer may have together."""
        limits = "context_window = 100\nmax_output_tokens = "
        assert (
            "models[0] (x).max_output_tokens: found 101, expected at most context_window, "
            "which is 100"
        ) == text_refusal(NODE_A + MODEL_X + limits + "101")
        assert reading.parse(NODE_A + MODEL_X + limits + "100", "f").models
