"""The sample in etc/ says of every key of an agent's file what it is."""

import re
import tomllib
from pathlib import Path
from typing import get_type_hints

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from cortexd.config import agent_reading
from cortexd.config.agent_settings import AgentConfig

SAMPLE = Path(__file__).parents[2] / "etc" / "cortex-agent.toml"
TEXT = SAMPLE.read_text("utf-8")
TABLES: dict[str, type[msgspec.Struct]] = get_type_hints(AgentConfig)
UNCOMMENTED = tomllib.loads(re.sub(r"^#(?=[a-z_]+ = )", "", TEXT, flags=re.MULTILINE))
BESIDES = {"key": 'certificate = "/c.pem"', "certificate": 'key = "/k.pem"'}
WITH_COMMAND = {"directory", "environment", "stop_seconds", "start_limit", "start_interval"}


class AgentSampleTests(SynchronousTestCase):
    def test_loads(self) -> None:
        """The sample loads as it is, with an enrolment and every other setting at its default."""
        loaded = agent_reading.load(SAMPLE)
        own = msgspec.structs.replace(loaded.agent, enrolment=None)

        assert "/etc/cortex/agent.enrolment" == loaded.agent.enrolment
        assert AgentConfig() == msgspec.structs.replace(loaded, agent=own)

    def test_every_key(self) -> None:
        """Every key of every table is in the sample, and the sample has no other."""
        assert set(TABLES) == set(UNCOMMENTED)
        for name, settings_type in TABLES.items():
            assert set(settings_type.__struct_fields__) == set(UNCOMMENTED[name])

    def test_each_key_is_valid(self) -> None:
        """Each key loads alone with the value that the sample shows: its default, if it has one."""
        lines = dict(re.findall(r"^#?(([a-z_]+) = .*)$", TEXT, flags=re.MULTILINE))
        texts = {key: line for line, key in lines.items()}
        for name, settings_type in TABLES.items():
            for field in msgspec.structs.fields(settings_type):
                if field.name == "enrolment":
                    continue
                extra = BESIDES.get(field.name, "")
                if field.name in WITH_COMMAND:
                    extra = 'command = ["run"]'
                text = f'[agent]\nenrolment = "/e"\n[{name}]\n{texts[field.name]}\n{extra}\n'
                if name == "agent":
                    text = text.replace(f"[{name}]\n", "", 1).replace("[agent]\n", "", 1)
                    text = f"[agent]\n{text}"
                value = getattr(getattr(agent_reading.parse(text, "x"), name), field.name)
                if field.default is not None and field.default is not msgspec.NODEFAULT:
                    is_example = field.name == "environment"
                    assert is_example or field.default == value, field.name
                else:
                    assert value is not None

    def test_prose(self) -> None:
        """Each key is preceded by prose that names its default."""
        parts = re.split(r"^\[([a-z]+)\]$", TEXT, flags=re.MULTILINE)
        texts = dict(zip(parts[1::2], parts[2::2], strict=True))
        for name in TABLES:
            paragraphs = texts[name].split("\n\n")
            for key in TABLES[name].__struct_fields__:
                (paragraph,) = [
                    p for p in paragraphs if re.search(rf"^#?{key} = ", p, re.MULTILINE)
                ]
                assert re.search(r"\bDefault\b", paragraph), key
