"""The shapes of conversations that clients send, each with marker words of its own.

The clients are those of docs/translation.md 1: Claude Code, Codex, opencode, Qwen Code, the AI SDK,
LangChain, pydantic-ai, and the SDKs of OpenAI and Anthropic.
"""

from tests.templates.shapes import spellings, talk, tools

SHAPES = (*talk.SHAPES, *tools.SHAPES, *spellings.SHAPES)
