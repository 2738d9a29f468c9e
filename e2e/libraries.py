"""Clients that are libraries: a script of ours has the conversation of talk.py by each."""

from __future__ import annotations

import json

from e2e.installing.go import GoModule
from e2e.installing.kit import Installed, Kit
from e2e.installing.npm import Npm
from e2e.installing.pip import Pip
from e2e.real_server import TURNS, RealTalk
from e2e.scenes import Client, Scene
from e2e.stage import MODEL, Stage, Workplace, check_equal
from e2e.talk import RUN_SECONDS, SYSTEM, tail, talk


def _client(name: str, kit: Kit, *dialects: str) -> Client:
    scenes = tuple(_scene(dialect) for dialect in dialects)
    return Client(name, kit, scenes, waiting=scenes)


def _scene(dialect: str) -> Scene:
    def play(stage: Stage, client: Installed) -> str:
        return talk(stage, client, dialect)

    def play_real(place: Workplace, client: Installed) -> list[str]:
        environment = {
            "PATH": client.search_path,
            "TALK_BASE_URL": place.daemon.base_url,
            "TALK_MODELS": MODEL,
            "TALK_SYSTEM": SYSTEM,
        }
        done = place.run([*client.command, dialect, *TURNS], environment, RUN_SECONDS)
        check_equal((0, ""), (done.status, done.complaints), f"exit status, errors ({tail(done)})")
        return [json.loads(line) for line in done.output.splitlines()]

    first_sentence = SYSTEM.partition(".")[0]
    real = RealTalk(
        "weather", lambda _: {"city": "in Lisbon"}, "The sun shines", play_real, first_sentence
    )
    return Scene(f"talk by {dialect}", play, every_template=True, real=real)


LIBRARIES = (
    _client(
        "ai-sdk",
        Npm(
            ("ai", "@ai-sdk/openai", "@ai-sdk/openai-compatible", "@ai-sdk/anthropic", "zod"),
            script="ai_sdk.mjs",
        ),
        "openai",
        "openai-compatible",
        "anthropic",
    ),
    _client("openai-node", Npm(("openai",), script="openai_node.mjs"), "chat", "responses"),
    _client(
        "openai-go",
        GoModule("github.com/openai/openai-go/v3", "openai_go.go"),
        "chat",
        "responses",
    ),
    _client(
        "openai-agents",
        Pip(("openai-agents", "openai"), "openai_agents_talk.py"),
        "chat",
        "responses",
    ),
    _client(
        "pydantic-ai",
        Pip(("pydantic-ai-slim[openai]", "openai"), "pydantic_ai_talk.py"),
        "chat",
        "responses",
    ),
    _client(
        "langchain",
        Pip(("langchain", "langchain-openai", "langchain-anthropic"), "langchain_talk.py"),
        "chat",
        "responses",
        "messages",
    ),
)
