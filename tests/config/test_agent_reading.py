from collections.abc import Callable
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from cortexd.config import agent_reading
from cortexd.config.agent_settings import AgentConfig, EngineSettings
from cortexd.config.tables import ConfigError
from cortexd.engines.registry import ENGINES

ENROLLED = '[agent]\nenrolment = "/e"\n'
GATEWAY = (
    'HOST:PORT with a port of 1 to 65535, such as "gateway.example.com:8700", "10.0.0.2:8700" or '
    '"[::1]:8700"'
)
PATH = "an absolute path"

WRONG = [
    # What stands in the file, and the message.
    ("", "agent.node: missing, expected it here, or agent.enrolment, the file that states it"),
    (
        '[agent]\nnode = "a"\n',
        "agent.gateway: missing, expected it here, or agent.enrolment, the file that states it",
    ),
    ("[agents]\n", "unknown key agents; did you mean agent?"),
    (ENROLLED + "intervall = 1\n", "unknown key agent.intervall; did you mean agent.interval?"),
    (
        ENROLLED + "interval = 0.1\n",
        "agent.interval: found 0.1, expected a number of seconds >= 0.2 and <= 60.0",
    ),
    (ENROLLED + 'gateway = "g"\n', f'agent.gateway: found "g", expected {GATEWAY}'),
    (ENROLLED + 'gateway = "::1:8700"\n', f'agent.gateway: found "::1:8700", expected {GATEWAY}'),
    (ENROLLED + 'gateway = "g:0"\n', f'agent.gateway: found "g:0", expected {GATEWAY}'),
    (
        '[agent]\nnode = "a"\ngateway = "10.0.0.2:1"\n',
        'agent.gateway: found "10.0.0.2:1", expected an address of this machine, or credentials: '
        "agent.enrolment, or agent.ca with a certificate or a token",
    ),
    (
        ENROLLED + 'certificate = "/c"\n',
        "agent.key: missing, expected an absolute path, as agent.certificate is set",
    ),
    (
        ENROLLED + 'key = "/k"\n',
        "agent.certificate: missing, expected an absolute path, as agent.key is set",
    ),
    (
        ENROLLED + 'certificate = "/c"\nkey = "/k"\ntoken_file = "/t"\n',
        'agent.token_file: found "/t", expected no such key with agent.certificate: one of them '
        "admits the agent",
    ),
    (
        '[agent]\nnode = "a"\ngateway = "127.0.0.1:1"\ntoken_file = "/t"\n',
        "agent.ca: missing, expected the file of the authority that signed the gateway's "
        "certificate, as agent.token_file is set",
    ),
    (
        '[agent]\nnode = "a"\ngateway = "g:1"\nca = "/ca"\n',
        "agent.certificate: missing, expected it or agent.token_file, which admit the agent",
    ),
    (
        ENROLLED + '[engine]\nendpoint = "https://a"\n',
        'engine.endpoint: found "https://a", expected an http:// URL: the agent asks its engine on '
        "the same machine",
    ),
    (
        ENROLLED + "[engine]\ncommand = []\n",
        "engine.command: found an empty list, expected a list of at least one string, each a "
        "string without control characters",
    ),
    (
        ENROLLED + '[engine]\ncommand = "run"\n',
        'engine.command: found "run", expected a list of at least one string, each a string '
        "without control characters",
    ),
    (
        ENROLLED + '[engine]\ncommand = ["a"]\nrestart_command = ["b"]\n',
        "engine.restart_command: found a list, expected no such key with engine.command: the agent "
        "runs the engine itself",
    ),
    (
        ENROLLED + '[engine]\ncommand = ["a"]\nunit = "a.service"\n',
        'engine.unit: found "a.service", expected no such key with engine.command: the agent runs '
        "the engine itself",
    ),
    (
        ENROLLED + '[engine]\ndirectory = "/d"\n',
        'engine.directory: found "/d", expected no such key without engine.command: another '
        "program runs the engine",
    ),
    (
        ENROLLED + '[engine]\nunit = "--user.service"\n',
        'engine.unit: found "--user.service", expected the name of a systemd unit, such as '
        '"mistralrs.service"',
    ),
    (
        ENROLLED + '[engine]\nunit = "a.service"\npid_file = "/p"\n',
        'engine.pid_file: found "/p", expected no such key with engine.unit, which tells the '
        "process already",
    ),
    (
        ENROLLED + '[engine]\ncommand = ["a"]\nenvironment = { "A B" = "1" }\n',
        'a key of engine.environment: found "A B", expected the name of a variable: letters, '
        "digits and _",
    ),
    (
        ENROLLED + '[gpu]\nsource = "cuda"\n',
        'gpu.source: found "cuda", expected "amdsmi" or "auto" or "none" or "nvml"',
    ),
]


def refusal(parse: Callable[[str, str], AgentConfig], text: str) -> str:
    try:
        parse(text, "agent.toml")
    except ConfigError as error:
        return str(error)
    raise AssertionError(f"not refused: {text}")


class AgentReadingTests(SynchronousTestCase):
    def test_refused(self) -> None:
        """A wrong value, an unknown key or a contradiction is named with what is expected."""
        for text, message in WRONG:
            assert f"agent.toml: {message}" == refusal(agent_reading.parse, text)

    def test_missing_file(self) -> None:
        """A file that cannot be read is named."""
        with self.assertRaises(ConfigError) as caught:
            agent_reading.load(Path("gone.toml"))

        assert str(caught.exception).startswith("gone.toml: cannot be read (No such file")

    def test_accepted(self) -> None:
        """Loopback needs no credentials; other hosts need an enrolment, or credentials."""
        for own in (
            'node = "a"\ngateway = "127.0.0.1:8700"',
            'node = "a"\ngateway = "[::1]:8700"',
            'node = "a"\ngateway = "localhost:8700"',
            'enrolment = "/e"\ngateway = "10.0.0.2:8700"',
            'node = "a"\ngateway = "g:1"\nca = "/ca"\ntoken_file = "/t"',
            'node = "a"\ngateway = "g:1"\nca = "/ca"\ncertificate = "/c"\nkey = "/k"',
        ):
            agent_reading.parse(f"[agent]\n{own}\n", "agent.toml")

    def test_address(self) -> None:
        """The gateway's address keeps one form: lower case, IPv6 addresses in brackets."""
        text = ENROLLED + 'gateway = "GW.Example.com:8700"\n'

        assert "gw.example.com:8700" == agent_reading.parse(text, "x").agent.gateway

    def test_kinds_of_engines(self) -> None:
        """The kinds of engine are those that the gateway knows."""
        for kind in ENGINES:
            text = f'{ENROLLED}[engine]\nkind = "{kind}"\n'
            assert kind == agent_reading.parse(text, "x").engine.kind

    def test_log_of_a_unit(self) -> None:
        """With a unit, journalctl prints the log, unless another command does."""
        by_unit = EngineSettings(unit="m.service").log_command
        own = EngineSettings(unit="m.service", log=("cat", "log")).log_command

        assert by_unit is not None
        assert ("journalctl", "--unit", "m.service") == by_unit[:3]
        assert ("cat", "log") == own
        assert EngineSettings(command=("run",)).log_command is None

    def test_summary(self) -> None:
        """A check shows what the file comes to, without the arguments of commands."""
        text = (
            '[agent]\nnode = "a"\ngateway = "127.0.0.1:8700"\n[engine]\nunit = "m.service"\n'
            'restart_command = ["systemctl", "--token=secret"]\n'
        )

        lines = agent_reading.summary(agent_reading.parse(text, "x"))

        assert (
            "node: a, gateway: 127.0.0.1:8700",
            "engine: mistralrs at http://127.0.0.1:1234, every 1 s",
            "process: the unit m.service; restarted by systemctl ...",
            "log: journalctl ...",
            "memory: nvml or amdsmi, whichever finds a device, or else the engine's figures",
            "suspend: never",
        ) == lines
        assert "secret" not in "".join(lines)
