"""One request by each SDK: DIALECT, with the environment of talk.py and the key in SDK_KEY.

Prints a line of JSON: the text of the answer, or the SDK's class of error, its status and message.
"""

import json
import os
import sys

import anthropic
import openai

TURN = {"role": "user", "content": "hello there"}


def ask(dialect: str) -> str:
    """Return the text of an answer."""
    base_url, model, key = (
        os.environ[name] for name in ("TALK_BASE_URL", "TALK_MODELS", "SDK_KEY")
    )
    if dialect == "openai":
        chats = openai.OpenAI(base_url=f"{base_url}/v1", api_key=key).chat.completions
        answer = chats.create(model=model, messages=[TURN])
        return answer.choices[0].message.content
    client = anthropic.Anthropic(base_url=base_url, api_key=key)
    message = client.messages.create(model=model, messages=[TURN], max_tokens=100)
    return "".join(block.text for block in message.content if block.type == "text")


try:
    result = {"answer": ask(sys.argv[1])}
except (anthropic.APIStatusError, openai.APIStatusError) as error:
    kind = f"{type(error).__module__.partition('.')[0]}.{type(error).__name__}"
    result = {"error": kind, "status": error.status_code, "message": error.message}
print(json.dumps(result))
