"""A conversation by pydantic-ai: DIALECT TURN..., with the environment of talk.py."""

import asyncio
import json
import os
import sys

from pydantic_ai import Agent, AgentRunResultEvent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

MODELS = {"chat": OpenAIChatModel, "responses": OpenAIResponsesModel}


def weather(city: str) -> str:
    """Return the weather in a city."""
    return f"The sun shines {city}"


def clock(city: str) -> str:
    """Return the time in a city."""
    return f"It is noon {city}"


async def talk(dialect: str, turns: list[str]) -> None:
    """Print each answer as JSON; the system prompt is in two parts, which become two messages."""
    provider = OpenAIProvider(base_url=f"{os.environ['TALK_BASE_URL']}/v1", api_key="unused")
    first, second = os.environ["TALK_SYSTEM"].split(". ", 1)
    for model in os.environ["TALK_MODELS"].split():
        agent = Agent(
            MODELS[dialect](model, provider=provider),
            system_prompt=f"{first}.",
            instructions=second,
            tools=[weather, clock],
        )
        history = []
        for turn in turns:
            # `run_stream` would take a text before a call for the answer.
            async with agent.run_stream_events(turn, message_history=history) as events:
                async for event in events:
                    if isinstance(event, AgentRunResultEvent):
                        print(json.dumps(event.result.output), flush=True)
                        history = event.result.all_messages()


asyncio.run(talk(sys.argv[1], sys.argv[2:]))
