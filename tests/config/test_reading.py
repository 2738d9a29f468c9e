import operator
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from cortexd.config import reading
from cortexd.config.reading import ConfigError
from cortexd.config.settings import (
    Config,
    EvictionSettings,
    GatewaySettings,
    ModelSettings,
    NodeSettings,
)
from tests.config.test_addresses import ENDPOINT, LISTEN, PROXY, SOCKET

# What people already have elsewhere: it must load as it stands.
EXISTING = """\
[gateway]
listen = "0.0.0.0:8000"
metrics_listen = "0.0.0.0:9100"

[eviction]
strategy = "lru"            # or "priority"
defrag_after_cycles = 50

[[nodes]]
name = "gpu-large"
endpoint = "http://gpu-large.internal:8080"
vram_mb = 49_152
pinned = ["your-org/large-model"]

[[nodes]]
name = "gpu-medium"
endpoint = "http://gpu-medium.internal:8080"
vram_mb = 24_576
pinned = ["your-org/medium-model"]

[[nodes]]
name = "gpu-small"
endpoint = "http://gpu-small.internal:8080"
vram_mb = 12_288
pinned = ["your-org/embedding-model"]
"""
NODE = '[[nodes]]\nname = "a"\nendpoint = "http://a:1"\nvram_mb = 1\n'
OTHER_NODE = '[[nodes]]\nname = "b"\nendpoint = "http://b:1"\nvram_mb = 1\n'

ALIAS = "a name without control characters and without space at either end"
MODEL_ID = f'{ALIAS}, other than "default"'
NODE_NAME = "1 to 64 characters of A-Z a-z 0-9 . _ -"

# Values that a key refuses: key, value in the file, how the message shows it, what is allowed.
WRONG_VALUES = [
    ("gateway.max_body_mb", '"fifty"', '"fifty"', "an integer >= 1"),
    ("gateway.max_body_mb", "0", "0", "an integer >= 1"),
    ("gateway.max_body_mb", "1.5", "1.5", "an integer >= 1"),
    ("gateway.max_body_mb", "true", "true", "an integer >= 1"),
    ("gateway.max_body_mb", "1" + "0" * 30, "an integer beyond 64 bits", "an integer >= 1"),
    ("gateway.max_body_mb", "0x" + "f" * 9999, "an integer beyond 64 bits", "an integer >= 1"),
    ("gateway.max_body_mb", "[50]", "a list", "an integer >= 1"),
    ("gateway.max_body_mb", "{}", "a table", "an integer >= 1"),
    ("gateway.max_body_mb", "2026-01-01", "a date or time", "an integer >= 1"),
    ("gateway.hold_seconds", "0", "0", "a number of seconds > 0"),
    ("gateway.hold_seconds", "-0.0", "-0.0", "a number of seconds > 0"),
    ("gateway.hold_seconds", "inf", "inf", "a number of seconds > 0"),
    ("gateway.hold_seconds", "nan", "nan", "a number of seconds > 0"),
    ("gateway.hold_seconds", "true", "true", "a number of seconds > 0"),
    ("gateway.hold_seconds", '"5s"', '"5s"', "a number of seconds > 0"),
    ("gateway.listen", "8000", "8000", LISTEN),
    ("gateway.listen", '"8000"', '"8000"', LISTEN),
    ("gateway.metrics_listen", '""', '""', LISTEN),
    ("gateway.listen", '"unix:here"', '"here"', SOCKET),
    ("gateway.control_mode", "660", "660", '3 or 4 octal digits in quotes, such as "660"'),
    ("gateway.control_mode", '"680"', '"680"', '3 or 4 octal digits in quotes, such as "660"'),
    ("gateway.control_mode", '"0o660"', '"0o660"', '3 or 4 octal digits in quotes, such as "660"'),
    ("gateway.control_socket", '"control.sock"', '"control.sock"', SOCKET),
    ("gateway.control_socket", r'"/a\u0000b"', r'"/a\x00b"', SOCKET),
    ("gateway.control_socket", "[]", "an empty list", SOCKET),
    ("gateway.state_dir", '"~/state"', '"~/state"', "an absolute path"),
    ("eviction.strategy", '"fifo"', '"fifo"', '"heat" or "lru" or "priority"'),
    ("eviction.strategy", "1", "1", '"heat" or "lru" or "priority"'),
    ("eviction.defrag_after_cycles", "-1", "-1", "an integer >= 0"),
    ("eviction.idle_ttl", "-0.1", "-0.1", "a number of seconds >= 0"),
    ("eviction.interval", "0", "0", "a number of seconds > 0"),
    ("polling.down_after", "0", "0", "an integer >= 1"),
    ("responses.max_mb", "0", "0", "an integer of MiB > 0"),
    ("responses.max_age", "0", "0", "a number of seconds > 0"),
    ("polling.interval", "[]", "an empty list", "a number of seconds > 0"),
    ("scheduling.load_timeout", "-1", "-1", "a number of seconds > 0"),
    ("scheduling.max_queue", "0", "0", "an integer >= 1"),
    ("scheduling.queue_timeout", "0", "0", "a number of seconds > 0"),
    ("scheduling.max_wait", "0", "0", "a number of seconds > 0"),
    ("scheduling.min_residency", "-1", "-1", "a number of seconds >= 0"),
    ("gateway.trusted_proxies", '"::1"', '"::1"', f"a list of strings, each {PROXY}"),
    ("gateway.allow_http_control", "1", "1", "true or false"),
    ("gateway.allow_http_control", '"true"', '"true"', "true or false"),
]

# Whole files that cannot be used, and the one line said about each after its name.
WRONG_FILES = [
    # TOML itself
    ("a = ", "line 1: not valid TOML: Invalid value"),
    ("[gateway]\nlisten = x\n", "line 2, column 10: not valid TOML: Invalid value"),
    ("a = 1\n[a]\n", "line 2, column 3: not valid TOML: Cannot overwrite a value"),
    ("a = " + "[" * 9999, "not valid TOML: lists or tables nested too deeply"),
    # tables
    ("", "nodes: missing, expected at least one [[nodes]]"),
    ("nodes = []", "nodes: found an empty list, expected at least one [[nodes]]"),
    ("[nodes]", "nodes: found a table, expected at least one [[nodes]]"),
    ("nodes = [1]", "nodes[0]: found 1, expected a table"),
    ("gateway = 1\n" + NODE, "gateway: found 1, expected a table, [gateway]"),
    ("[[gateway]]\n" + NODE, "gateway: found a list, expected a table, [gateway]"),
    (NODE + "[models]", "models: found a table, expected any number of [[models]]"),
    # keys
    (
        "[gateway]\nlisen = 1\n" + NODE,
        "unknown key gateway.lisen; did you mean gateway.listen?",
    ),
    ("[gatway]\n" + NODE, "unknown key gatway; did you mean gateway?"),
    (
        "[eviction]\nttl = 1\n" + NODE,
        "unknown key eviction.ttl; the keys here are "
        "strategy, interval, idle_ttl, defrag_after_cycles",
    ),
    (
        NODE + 'pined = ["x"]',
        "unknown key nodes[0] (a).pined; did you mean nodes[0] (a).pinned?",
    ),
    (
        '"a\\nb" = 1\n' + NODE,
        r'unknown key "a\nb"; the keys here are '
        "gateway, auth, eviction, polling, scheduling, repair, responses, agents, nodes, models",
    ),
    ("[[nodes]]\nvram_mb = 1", f"nodes[0].name: missing, expected {NODE_NAME}"),
    ('[[nodes]]\nname = "a"', f"nodes[0] (a).endpoint: missing, expected {ENDPOINT}"),
    (
        '[[nodes]]\nname = "a"\nendpoint = "http://a"',
        "nodes[0] (a).vram_mb: missing, expected an integer of MiB > 0",
    ),
    (
        "[repair]\nrestart_timeout = 1e6\n" + NODE,
        "repair.restart_timeout: found 1000000.0, expected a number of seconds > 0 and <= 86400.0",
    ),
    (NODE + "[[models]]", f"models[0].id: missing, expected {MODEL_ID}"),
    (
        "[gateway]\nproxy_protocol = true\n" + NODE,
        "gateway.proxy_protocol: found true, expected false, or the proxies that send the header "
        "in gateway.trusted_proxies",
    ),
    (
        '[gateway]\nlisten = "haproxy:tcp:80"\ntrusted_proxies = ["::1"]\n' + NODE,
        'gateway.listen: found "haproxy:tcp:80", expected an endpoint without "haproxy:", which '
        "believes every peer; set proxy_protocol",
    ),
    # values in lists
    (
        '[gateway]\ntrusted_proxies = ["10.0.0.0/8", "gpu.example.com"]\n' + NODE,
        f'gateway.trusted_proxies[1]: found "gpu.example.com", expected {PROXY}',
    ),
    (
        '[gateway]\ntrusted_proxies = ["10.0.0.7/8"]\n' + NODE,
        f'gateway.trusted_proxies[0]: found "10.0.0.7/8", expected {PROXY}; '
        'the network is "10.0.0.0/8"',
    ),
    (
        NODE + OTHER_NODE.replace("vram_mb = 1", "vram_mb = 0"),
        "nodes[1] (b).vram_mb: found 0, expected an integer of MiB > 0",
    ),
    (
        NODE + 'pinned = "x"',
        f'nodes[0] (a).pinned: found "x", expected a list of strings, each {MODEL_ID}',
    ),
    (NODE + 'pinned = ["x", 1]', f"nodes[0] (a).pinned[1]: found 1, expected {MODEL_ID}"),
    (NODE + 'pinned = [""]', f'nodes[0] (a).pinned[0]: found "", expected {MODEL_ID}'),
    (
        NODE + 'pinned = ["default"]',
        f'nodes[0] (a).pinned[0]: found "default", expected {MODEL_ID}',
    ),
    (
        NODE.replace('"a"', '"gpu one"'),
        f'nodes[0] (gpu one).name: found "gpu one", expected {NODE_NAME}',
    ),
    (NODE.replace('"a"', '""'), f'nodes[0].name: found "", expected {NODE_NAME}'),
    (
        NODE.replace('"a"', f'"{"x" * 65}"'),
        f'nodes[0] ({"x" * 57}...).name: found "{"x" * 57}...", expected {NODE_NAME}',
    ),
    (
        NODE + '[[models]]\nid = "x\\ny"',
        rf'models[0] (x\ny).id: found "x\ny", expected {MODEL_ID}',
    ),
    (
        NODE + '[[models]]\nid = "x"\naliases = [" y"]',
        f'models[0] (x).aliases[0]: found " y", expected {ALIAS}',
    ),
    (
        NODE + '[[models]]\nid = "x"\nmax_concurrency = 0',
        "models[0] (x).max_concurrency: found 0, expected an integer >= 1",
    ),
    (
        NODE.replace("//a", "//me:secret@a"),
        f"nodes[0] (a).endpoint: found a URL with a user name, expected {ENDPOINT}",
    ),
    (
        NODE + "reserve_mb = -1",
        "nodes[0] (a).reserve_mb: found -1, expected an integer of MiB >= 0",
    ),
    (NODE + "max_resident = -1", "nodes[0] (a).max_resident: found -1, expected an integer >= 0"),
    (
        NODE + '[[models]]\nid = "x"\npriority = 1.5',
        "models[0] (x).priority: found 1.5, expected an integer",
    ),
    (
        NODE + '[[models]]\nid = "x"\nttl = -1',
        "models[0] (x).ttl: found -1, expected a number of seconds >= 0",
    ),
    (
        NODE + '[[models]]\nid = "x"\npinned_on = ["gpu one"]',
        f'models[0] (x).pinned_on[0]: found "gpu one", expected {NODE_NAME}',
    ),
    (
        NODE + '[[models]]\nid = "x"\nefforts = ["low", "huge"]',
        'models[0] (x).efforts[1]: found "huge", expected "high" or "low" or "max" or "medium" or '
        '"minimal" or "xhigh"',
    ),
    # values in tables of a person's own keys
    (
        NODE + 'models = ["x"]',
        "nodes[0] (a).models: found a list, expected a table, each value an integer of MiB > 0",
    ),
    (
        NODE + 'models = { "org/x" = "20G" }',
        'nodes[0] (a).models."org/x": found "20G", expected an integer of MiB > 0',
    ),
    (
        NODE + "[nodes.models]\nx-1 = 0",
        "nodes[0] (a).models.x-1: found 0, expected an integer of MiB > 0",
    ),
    (
        NODE + 'models = { "" = 1 }',
        f'a key of nodes[0] (a).models: found "", expected {MODEL_ID}',
    ),
    (
        NODE + 'models = { "default" = 1 }',
        f'a key of nodes[0] (a).models: found "default", expected {MODEL_ID}',
    ),
    (
        NODE + 'models = { "a\\nb" = 1 }',
        rf'a key of nodes[0] (a).models: found "a\nb", expected {MODEL_ID}',
    ),
    # values that do not go together
    (
        f"[auth]\nmetrics = true\n{NODE}",
        "auth.metrics: found true, expected false, or the file with the keys in auth.keys_file",
    ),
    (
        f'[gateway]\nlisten = ":80"\nmetrics_listen = "0.0.0.0:80"\n{NODE}',
        'gateway.metrics_listen: found "0.0.0.0:80", '
        "expected an address that does not overlap gateway.listen (:80)",
    ),
    (
        NODE + NODE.replace("//a", "//b"),
        'nodes[1] (a).name: found "a", expected a unique value: nodes[0] (a) has the same one',
    ),
    (
        NODE + OTHER_NODE.replace("http://b:1", "https://A:1/"),
        'nodes[1] (b).endpoint: found "https://a:1", expected a unique value: '
        "nodes[0] (a) has the same one",
    ),
    (
        NODE.replace("http://a:1", "http://a") + OTHER_NODE.replace("http://b:1", "http://a:80"),
        'nodes[1] (b).endpoint: found "http://a:80", expected a unique value: '
        "nodes[0] (a) has the same one",
    ),
    (
        NODE.replace("//a:1", "//a:1/x") + OTHER_NODE.replace("//b:1", "//a:1/%78/"),
        'nodes[1] (b).endpoint: found "http://a:1/x", expected a unique value: '
        "nodes[0] (a) has the same one",
    ),
    (
        NODE + 'ca_file = "/ca.pem"',
        'nodes[0] (a).ca_file: found "/ca.pem", expected no such key with the endpoint '
        '"http://a:1", which is not https',
    ),
    (
        NODE.replace("http:", "https:") + 'client_certificate = "/c.pem"',
        "nodes[0] (a).client_key: missing, expected an absolute path, as client_certificate is set",
    ),
    (
        NODE.replace("http:", "https:") + 'client_key = "/k.pem"',
        "nodes[0] (a).client_certificate: missing, expected an absolute path, as client_key is set",
    ),
    (
        NODE + '[[models]]\nid = "x"\n[[models]]\nid = "x"',
        'models[1] (x).id: found "x", expected a unique value: models[0] (x) has the same one',
    ),
    (
        NODE + '[[models]]\nid = "x"\naliases = ["y"]\n[[models]]\nid = "y"',
        'models[0] (x).aliases[0]: found "y", expected a unique value: '
        "models[1] (y) has the same one",
    ),
    (
        NODE + '[[models]]\nid = "x"\naliases = ["d"]\n[[models]]\nid = "y"\naliases = ["d"]',
        'models[1] (y).aliases[0]: found "d", expected a unique value: '
        "models[0] (x) has the same one",
    ),
    (
        NODE + 'pinned = ["big"]\n[[models]]\nid = "x"\naliases = ["big"]',
        'nodes[0] (a).pinned[0]: found "big", expected a model\'s id: this is an alias of "x"',
    ),
]


def refusal(read: Callable[..., object], *arguments: object) -> str:
    """Return what is said when a configuration or a change is refused."""
    try:
        accepted = read(*arguments)
    except (ConfigError, AttributeError, TypeError) as error:
        return str(error)
    raise AssertionError(f"{arguments} was accepted: {accepted}")


def file_refusal(path: str) -> str:
    """Return what is said about a file, after its name."""
    name, _, message = refusal(reading.load, path).partition(": ")
    assert path == name
    return message


def text_refusal(text: str) -> str:
    """Return what is said about a configuration, after the name of its file."""
    name, _, message = refusal(reading.parse, text, "/etc/cortex.toml").partition(": ")
    assert name == "/etc/cortex.toml"
    return message


class FileTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Make a folder for the files."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def written(self, content: bytes) -> str:
        """Write a configuration file and return its path."""
        path = self.folder / "cortex.toml"
        path.write_bytes(content)
        return str(path)

    def test_existing_file(self) -> None:
        """A file of the shape people have loads as it stands and means what it says."""
        loaded = reading.load(Path(self.written(EXISTING.encode())))

        expected = Config(
            gateway=GatewaySettings(listen="0.0.0.0:8000", metrics_listen="0.0.0.0:9100"),
            eviction=EvictionSettings(strategy="lru", defrag_after_cycles=50),
            nodes=(
                NodeSettings(
                    name="gpu-large",
                    endpoint="http://gpu-large.internal:8080",
                    vram_mb=49152,
                    pinned=("your-org/large-model",),
                ),
                NodeSettings(
                    name="gpu-medium",
                    endpoint="http://gpu-medium.internal:8080",
                    vram_mb=24576,
                    pinned=("your-org/medium-model",),
                ),
                NodeSettings(
                    name="gpu-small",
                    endpoint="http://gpu-small.internal:8080",
                    vram_mb=12288,
                    pinned=("your-org/embedding-model",),
                ),
            ),
        )
        assert expected == loaded
        assert EvictionSettings(strategy="lru", defrag_after_cycles=50) == loaded.eviction

    def test_windows_file(self) -> None:
        """A byte order mark and carriage returns, as some editors leave them, do no harm."""
        content = b"\xef\xbb\xbf" + EXISTING.replace("\n", "\r\n").encode()
        assert reading.parse(EXISTING, "x") == reading.load(self.written(content))

    def test_missing(self) -> None:
        """A file that is not there is said to be missing."""
        expected = "cannot be read (No such file or directory), expected a TOML file"
        assert expected == file_refusal(str(self.folder / "missing.toml"))

    def test_directory(self) -> None:
        """A directory is said to be one."""
        expected = "cannot be read (Is a directory), expected a TOML file"
        assert expected == file_refusal(str(self.folder))

    def test_nul_in_path(self) -> None:
        """A path that no file can have is an error like any other, on one line."""
        assert refusal(reading.load, "a\n\0b").startswith(r"a\n\x00b: cannot be read (")

    def test_unreadable(self) -> None:
        """A file the system will not open is named with the system's reason."""
        path = self.written(b"")
        Path(path).unlink()
        Path(path).symlink_to(path)  # unlike missing permissions, a loop stops root as well
        expected = "cannot be read (Too many levels of symbolic links), expected a TOML file"
        assert expected == file_refusal(path)

    def test_not_utf8(self) -> None:
        """A file in another encoding is told by its line and byte."""
        path = self.written("[gateway]\n# für alle\n".encode("latin-1"))
        expected = "line 2: found byte 0xfc, expected UTF-8 text"
        assert expected == file_refusal(path)

    def test_too_many_digits(self) -> None:
        """A number that Python will not convert is not valid TOML, not a traceback."""
        path = self.written(b"a = " + b"9" * 9999)
        assert file_refusal(path).startswith("not valid TOML: Exceeds the limit")


class MessageTests(SynchronousTestCase):
    def test_wrong_values(self) -> None:
        """A refused value is named by its key path, with what was found and what is allowed."""
        for path, value, found, allowed in WRONG_VALUES:
            table, _, key = path.partition(".")
            text = f"[{table}]\n{key} = {value}\n{NODE}"
            expected = f"{path}: found {found}, expected {allowed}"
            assert expected == text_refusal(text)

    def test_wrong_files(self) -> None:
        """Each kind of wrong file has one line that says what is wrong where."""
        for text, expected in WRONG_FILES:
            assert expected == text_refusal(text)

    def test_odd_source(self) -> None:
        """The name of the file cannot break the line either."""
        assert refusal(reading.parse, "", "a\nb\udcff").startswith(r"a\nb\udcff: nodes: missing")


class MeaningTests(SynchronousTestCase):
    def test_defaults(self) -> None:
        """A file that only names a node has every default."""
        node = NodeSettings(name="a", endpoint="http://a:1", vram_mb=1)
        assert Config(nodes=(node,)) == reading.parse(NODE, "x")

    def test_integer_seconds(self) -> None:
        """Seconds may be written without a fraction and are floats all the same."""
        hold = reading.parse("[gateway]\nhold_seconds = 3\n" + NODE, "x").gateway.hold_seconds
        expected = (3.0, float)
        assert expected == (hold, type(hold))

    def test_limits_are_inside(self) -> None:
        """The last value that a limit allows is accepted."""
        path = "/" + "p" * 106
        text = f'[gateway]\ncontrol_socket = "{path}"\ncontrol_mode = "0600"\nmax_body_mb = 1\n'
        text += "[eviction]\ndefrag_after_cycles = 0\n" + NODE.replace('"a"', f'"{"x" * 64}"')
        loaded = reading.parse(text, "x")
        assert path == loaded.gateway.control_socket
        expected = "x" * 64
        assert expected == loaded.nodes[0].name

    def test_model(self) -> None:
        """A model's settings are found by its id, and an unnamed model has the defaults."""
        text = NODE + '[[models]]\nid = "x"\naliases = ["default"]\nmax_concurrency = 2'
        loaded = reading.parse(text, "x")
        assert ModelSettings(id="x", aliases=("default",), max_concurrency=2) == loaded.model("x")
        assert ModelSettings(id="default") == loaded.model("default")

    def test_aliases(self) -> None:
        """Every alias of every model leads to its id, "default" among them."""
        text = NODE + '[[models]]\nid = "x"\naliases = ["default", "b"]\n'
        loaded = reading.parse(text + '[[models]]\nid = "y"\naliases = ["c"]', "x")
        expected = {"default": "x", "b": "x", "c": "y"}
        assert expected == loaded.aliases

    def test_frozen(self) -> None:
        """What was loaded cannot be changed, so that everybody sees the same."""
        loaded = reading.parse(NODE + "models = { x = 1 }", "x")
        for settings_of in (loaded, loaded.gateway, loaded.nodes[0]):
            name = msgspec.structs.fields(settings_of)[0].name
            assert refusal(setattr, settings_of, name, None).startswith("immutable type")
        for mapping in (loaded.nodes[0].models, loaded.pins, loaded.aliases):
            assert refusal(operator.setitem, mapping, "x", 1).endswith("item assignment")
