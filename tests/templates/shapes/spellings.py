"""Conversations with fields, blocks or items that only one dialect has."""

from tests.templates.conversation import Assistant, Call, Result, Shape, System
from tests.templates.shapes.parts import (
    AGAIN,
    ANSWERED,
    ASKED,
    CALL,
    CHAT,
    LOOKUP,
    MESSAGES,
    RESPONSES,
    RESULT,
    SYSTEM,
)

SYSTEM_MESSAGE = {"role": "system", "content": "sysone"}
USER_MESSAGE = {"role": "user", "content": "useone"}
LAST_MESSAGE = {"role": "user", "content": "usetwo"}
FUNCTION = {"name": "lookup", "arguments": '{"path":"argone"}'}
CHAT_CALL = {"id": "call_1", "type": "function", "function": FUNCTION}
CALLED = (SYSTEM, ASKED, Assistant(calls=(CALL,)), RESULT)
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)

OF_CHAT = (
    Shape(
        "both names of thoughts",
        (SYSTEM, ASKED, ANSWERED, AGAIN),
        CHAT,
        chat={
            "messages": [
                *(SYSTEM_MESSAGE, USER_MESSAGE),
                {
                    "role": "assistant",
                    "content": "ansone",
                    "reasoning": "Hmm.",
                    "reasoning_content": "Hmm.",
                },
                LAST_MESSAGE,
            ]
        },
    ),
    Shape(
        "fields that are null",
        (SYSTEM, ASKED, AGAIN),
        CHAT,
        chat={
            "messages": [
                SYSTEM_MESSAGE | {"name": None},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "useone", "cache_control": None, "index": 0},
                        {"type": "text", "text": "usetwo", "annotations": []},
                    ],
                },
            ]
        },
    ),
    Shape(
        "arguments as an object",
        CALLED,
        CHAT,
        tools=LOOKUP,
        chat={
            "messages": [
                *(SYSTEM_MESSAGE, USER_MESSAGE),
                {
                    "role": "assistant",
                    "tool_calls": [
                        {"id": "call_1", "function": FUNCTION | {"arguments": {"path": "argone"}}}
                    ],
                },
                {"role": "tool", "tool_call_id": "call_1", "content": "resone"},
            ]
        },
    ),
    Shape(
        "function of the old form",
        CALLED,
        CHAT,
        chat={
            "messages": [
                *(SYSTEM_MESSAGE, USER_MESSAGE),
                {"role": "assistant", "content": None, "function_call": FUNCTION},
                {"role": "function", "name": "lookup", "content": "resone"},
            ]
        },
    ),
    Shape(
        "call and result without content",
        (*CALLED[:3], ANSWERED, AGAIN),
        CHAT,
        tools=LOOKUP,
        chat={
            "messages": [
                *(SYSTEM_MESSAGE, USER_MESSAGE),
                {"role": "assistant", "content": None, "tool_calls": [CHAT_CALL], "refusal": None},
                {"role": "tool", "tool_call_id": "call_1", "content": None},
                {"role": "assistant", "content": "ansone", "tool_calls": []},
                LAST_MESSAGE,
            ]
        },
    ),
    Shape(
        "tool with a name alone",
        (SYSTEM, ASKED),
        CHAT,
        chat={"tools": [{"type": "function", "function": {"name": "lookup"}}]},
    ),
    Shape(
        "unknown part in the past",
        (SYSTEM, ASKED, ANSWERED, AGAIN),
        CHAT,
        chat={
            "messages": [
                SYSTEM_MESSAGE,
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "useone"}, {"type": "odd", "odd": [1]}],
                },
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "Hmm."},
                        {"type": "text", "text": "ansone"},
                    ],
                },
                LAST_MESSAGE,
            ]
        },
    ),
)

USE = {"type": "tool_use", "id": "call_1", "name": "lookup", "input": {"path": "argone"}}
SERVER_USE = {
    "type": "server_tool_use",
    "id": "srv_1",
    "name": "web_search",
    "input": {"query": "q"},
}
FOUND = {"type": "web_search_result", "url": "https://a.b", "title": "t", "encrypted_content": "e"}

OF_MESSAGES = (
    Shape(
        "blocks of the vendor in the past",
        (SYSTEM, ASKED, ANSWERED, AGAIN),
        MESSAGES,
        messages={
            "messages": [
                USER_MESSAGE,
                {
                    "role": "assistant",
                    "content": [
                        {"type": "redacted_thinking", "data": "x"},
                        SERVER_USE,
                        {
                            "type": "web_search_tool_result",
                            "tool_use_id": "srv_1",
                            "content": [FOUND],
                        },
                        {"type": "text", "text": "ansone", "citations": []},
                    ],
                },
                LAST_MESSAGE,
            ]
        },
    ),
    Shape(
        "summary of what was said before",
        (SYSTEM, Assistant(("sumone",)), ANSWERED, AGAIN),
        MESSAGES,
        messages={
            "messages": [
                USER_MESSAGE,
                {
                    "role": "assistant",
                    "content": [
                        {"type": "compaction", "content": "sumone"},
                        {"type": "text", "text": "ansone"},
                    ],
                },
                LAST_MESSAGE,
            ]
        },
    ),
    Shape(
        "as Claude Code sends it",
        (SYSTEM, *CALLED[1:], AGAIN),
        MESSAGES,
        tools=LOOKUP,
        effort="high",
        messages={
            "system": [
                {"type": "text", "text": "x-anthropic-billing-header: cc_version=2; cch=1;"},
                {"type": "text", "text": "sysone", "cache_control": {"type": "ephemeral"}},
            ],
            "messages": [
                USER_MESSAGE,
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "Hmm.", "signature": ""},
                        {"type": "thinking", "thinking": "", "signature": ""},
                        USE,
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "call_1", "content": "resone"},
                        {
                            "type": "text",
                            "text": "usetwo",
                            "cache_control": {"type": "ephemeral"},
                        },
                    ],
                },
            ],
            "thinking": {"type": "adaptive", "display": "omitted"},
            "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        },
    ),
    Shape(
        "documents in a result",
        CALLED,
        MESSAGES,
        tools=LOOKUP,
        messages={
            "messages": [
                USER_MESSAGE,
                {"role": "assistant", "content": [USE]},
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "tool_result",
                            "tool_use_id": "call_1",
                            "content": [
                                {"type": "text", "text": "resone"},
                                {"type": "tool_reference", "tool_name": "other"},
                                {"type": "odd_block", "odd": [1]},
                                {
                                    "type": "document",
                                    "source": {
                                        "type": "base64",
                                        "media_type": "application/pdf",
                                        "data": "AAAA",
                                    },
                                },
                            ],
                        }
                    ],
                },
            ]
        },
    ),
)


def said(role: str, text: str) -> dict[str, object]:
    """Return a message of Responses in its short form."""
    return {"role": role, "content": text}


def shown(text: str) -> dict[str, object]:
    """Return an answer as the API gave it out."""
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {
        "type": "message",
        "id": "msg_1",
        "status": "completed",
        "role": "assistant",
        "content": [part],
    }


THOUGHT = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [{"type": "summary_text", "text": "Hmm."}],
    "content": [{"type": "reasoning_text", "text": "Hmm."}],
    "encrypted_content": None,
}
CALL_ITEM = {"type": "function_call", "call_id": "call_1", "id": "fc_1", **FUNCTION}
OUTPUT_ITEM = {"type": "function_call_output", "call_id": "call_1", "output": "resone"}
PATCH = {"type": "custom", "name": "lookup", "description": "Patches.", "format": {"type": "text"}}

OF_RESPONSES = (
    Shape("input of one string", (SYSTEM, ASKED), RESPONSES, responses={"input": "useone"}),
    Shape(
        "instructions and developers",
        (SYSTEM, System(("devone",)), ASKED),
        RESPONSES,
        responses={
            "instructions": "sysone",
            "input": [said("developer", "devone"), said("user", "useone")],
        },
    ),
    Shape(
        "items in the order of their end",
        (SYSTEM, ASKED, Assistant(("ansone",), (CALL,), "Hmm."), RESULT),
        RESPONSES,
        tools=LOOKUP,
        responses={
            "input": [said("user", "useone"), THOUGHT, shown("ansone"), CALL_ITEM, OUTPUT_ITEM]
        },
    ),
    Shape(
        "custom tool",
        (SYSTEM, ASKED, Assistant(calls=(Call("call_1", None, shown=("argone",)),)), RESULT),
        RESPONSES,
        responses={
            "input": [
                said("user", "useone"),
                {
                    "type": "custom_tool_call",
                    "call_id": "call_1",
                    "id": "ctc_1",
                    "name": "lookup",
                    "input": "argone",
                },
                {"type": "custom_tool_call_output", "call_id": "call_1", "output": "resone"},
            ],
            "tools": [PATCH],
        },
    ),
    Shape(
        "viewed picture",
        (SYSTEM, ASKED, Assistant(calls=(CALL,)), Result("call_1", ()), AGAIN),
        RESPONSES,
        tools=LOOKUP,
        responses={
            "input": [
                said("user", "useone"),
                CALL_ITEM,
                OUTPUT_ITEM
                | {
                    "output": [
                        {
                            "type": "input_image",
                            "image_url": f"data:image/png;base64,{PIXEL}",
                            "detail": "high",
                        }
                    ]
                },
                said("user", "usetwo"),
            ]
        },
    ),
    Shape(
        "tools of the vendor in the past",
        (SYSTEM, ASKED, ANSWERED, AGAIN),
        RESPONSES,
        responses={
            "input": [
                said("user", "useone"),
                {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {}},
                {"type": "odd_item", "id": "odd_1"},
                shown("ansone"),
                said("user", "usetwo"),
            ]
        },
    ),
    Shape(
        "call of a namespace",
        (SYSTEM, ASKED, Assistant(calls=(CALL,)), RESULT),
        RESPONSES,
        responses={
            "input": [said("user", "useone"), CALL_ITEM | {"namespace": "agents"}, OUTPUT_ITEM],
            "tools": [
                {
                    "type": "namespace",
                    "name": "agents",
                    "description": "d",
                    "tools": [{"type": "function", **LOOKUP[0]}],
                },
                {"type": "web_search"},
            ],
        },
    ),
)

SHAPES = (*OF_CHAT, *OF_MESSAGES, *OF_RESPONSES)
