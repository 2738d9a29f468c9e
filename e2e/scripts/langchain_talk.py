"""A conversation by LangChain: DIALECT TURN..., with the environment of talk.py."""

import json
import os
import sys

from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_openai import ChatOpenAI

BASE_URL = os.environ["TALK_BASE_URL"]
MODELS = {
    "chat": lambda model: ChatOpenAI(model=model, base_url=f"{BASE_URL}/v1", api_key="unused"),
    "responses": lambda model: ChatOpenAI(
        model=model, base_url=f"{BASE_URL}/v1", api_key="unused", use_responses_api=True
    ),
    "messages": lambda model: ChatAnthropic(
        model=model, base_url=BASE_URL, api_key="unused", max_tokens=1000
    ),
}


def weather(city: str) -> str:
    """Return the weather in a city."""
    return f"The sun shines {city}"


def clock(city: str) -> str:
    """Return the time in a city."""
    return f"It is noon {city}"


def talk(dialect: str, turns: list[str]) -> None:
    """Print each answer as JSON."""
    for model in os.environ["TALK_MODELS"].split():
        agent = create_agent(
            MODELS[dialect](model),
            tools=[weather, clock],
            system_prompt=os.environ["TALK_SYSTEM"],
        )
        messages = []
        for turn in turns:
            messages.append({"role": "user", "content": turn})
            # The mode "messages" makes it stream.
            for mode, value in agent.stream(
                {"messages": messages}, stream_mode=["messages", "values"]
            ):
                if mode == "values":
                    messages = value["messages"]
            print(json.dumps(messages[-1].text), flush=True)


talk(sys.argv[1], sys.argv[2:])
