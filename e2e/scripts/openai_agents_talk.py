"""A conversation by openai-agents: DIALECT TURN..., with the environment of talk.py."""

import asyncio
import json
import os
import sys

from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI

MODELS = {"chat": OpenAIChatCompletionsModel, "responses": OpenAIResponsesModel}


@function_tool
def weather(city: str) -> str:
    """Return the weather in a city."""
    return f"The sun shines {city}"


@function_tool
def clock(city: str) -> str:
    """Return the time in a city."""
    return f"It is noon {city}"


async def talk(dialect: str, turns: list[str]) -> None:
    """Print each answer as JSON."""
    set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=f"{os.environ['TALK_BASE_URL']}/v1", api_key="unused")
    for model in os.environ["TALK_MODELS"].split():
        agent = Agent(
            name="cat",
            instructions=os.environ["TALK_SYSTEM"],
            model=MODELS[dialect](model=model, openai_client=client),
            tools=[weather, clock],
        )
        history = []
        for turn in turns:
            run = Runner.run_streamed(agent, [*history, {"role": "user", "content": turn}])
            async for _ in run.stream_events():
                pass
            print(json.dumps(run.final_output), flush=True)
            history = run.to_input_list()


asyncio.run(talk(sys.argv[1], sys.argv[2:]))
