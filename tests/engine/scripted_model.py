"""Writes a model directory whose answers are scripts, which the real engine speaks token by token.

No real model of a megabyte calls a tool. Here each token of a script determines the next one: the
head points from a token's own direction to its successor, and no layer adds anything. A chat
template of ours chooses the script by the conversation: it ends the prompt with a token that begins
the script. All the rest is the engine's own: the template, the tokens, the recognition of calls in
a stream and the finish reasons.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from tests.engine.tiny_model import END_OF_TURN, SPECIAL_TOKENS

HIDDEN_SIZE: Final = 256
HEAD_SIZE: Final = 16
CONTEXT_TOKENS: Final = 32_768

CALL_TOKENS: Final = ("<tool_call>", "</tool_call>")
"""One token each, as in Qwen's models. Each may occur once in all scripts of a model, because its
successor would be ambiguous otherwise."""

CHARACTERS_OF_A_TOKEN: Final = 24
"""The prompt of a client with many tools is as long as a book, whose words do not matter here."""

PIECE: Final = 6
"""The characters of a token of a script, more where it would occur twice."""


CONVERSATION: Final = (
    "{%- if tools %}{{ tools | tojson }}\n{%- endif %}"
    "{%- for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}"
    "{%- for call in message['tool_calls'] or [] %}{{ call | tojson }}{%- endfor %}"
    "<|im_end|>\n{%- endfor %}"
    "{%- set results = messages | selectattr('role', 'equalto', 'tool') | list %}"
    "{%- if messages[-1]['role'] == 'tool' %}<|say answer|>"
    "{%- elif tools and not results %}<|say call|>"
    "{%- else %}<|say talk|>{%- endif %}"
)
"""A template for three scripts: ``call`` until the conversation has a result, ``answer`` after one,
and ``talk`` in all other turns."""


def beginning(script: str) -> str:
    """Return the token with which a template begins a script."""
    return f"<|say {script}|>"


def tool_call(name: str, arguments: Mapping[str, object]) -> str:
    """Return a call as Qwen's models write it, without blanks: the engine's grammar bars them."""
    written = json.dumps({"name": name, "arguments": arguments}, separators=(",", ":"))
    return f"{CALL_TOKENS[0]}{written}{CALL_TOKENS[1]}"


def write_scripted_model(directory: Path, scripts: Mapping[str, str], template: str) -> Path:
    """Write a model into `directory` (made if missing) and return the directory.

    `scripts` are the answers by their names. `template` is a chat template that ends each prompt
    with the `beginning` of one of them. Raises ValueError for scripts with more than one call.
    """
    directory.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    used = set(alphabet)
    spoken = {name: _pieces(text, used) for name, text in scripts.items()}
    tokenizer = Tokenizer(
        models.BPE(vocab={piece: number for number, piece in enumerate(sorted(used))}, merges=[])
    )
    tokenizer.normalizer = normalizers.Replace(Regex(rf"[^\n]{{{CHARACTERS_OF_A_TOKEN}}}"), ".")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    controls = (*SPECIAL_TOKENS, *map(beginning, scripts))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in controls])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in CALL_TOKENS])
    tokenizer.save(str(directory / "tokenizer.json"))
    end = _id(tokenizer, END_OF_TURN)
    successors: dict[int, int] = {}
    for name, pieces in spoken.items():
        chain = [_id(tokenizer, piece) for piece in (beginning(name), *pieces)]
        for token, successor in zip(chain, [*chain[1:], end], strict=True):
            if successors.setdefault(token, successor) != successor:
                raise ValueError(f"two successors of {tokenizer.id_to_token(token)!r}")
    _write_weights(directory, tokenizer.get_vocab_size(), successors, end)
    _write_descriptions(directory, tokenizer, template)
    return directory


def _id(tokenizer: Tokenizer, token: str) -> int:
    found = tokenizer.token_to_id(token)
    assert found is not None
    return found


def _pieces(text: str, used: set[str]) -> list[str]:
    """Cut a script into byte-level tokens that do not occur in ``used``, and add them there."""
    pieces: list[str] = []
    rest = text
    while rest:
        call = next((token for token in CALL_TOKENS if rest.startswith(token)), None)
        if call is not None:
            pieces.append(call)
            rest = rest.removeprefix(call)
            continue
        end = min([len(rest), *(at for at in map(rest.find, CALL_TOKENS) if at > 0)])
        part, rest = rest[:end], rest[end:]
        pieces += _unique(_byte_level(part), used)
    return pieces


def _unique(text: str, used: set[str]) -> list[str]:
    pieces: list[str] = []
    start = 0
    while start < len(text):
        end = min(start + PIECE, len(text))
        while text[start:end] in used and end < len(text):
            end += 1
        if text[start:end] in used:  # the last piece occurs already: it joins the one before it
            if not pieces:
                raise ValueError(f"no token of its own for {text!r}")
            used.discard(pieces[-1])
            pieces[-1] += text[start:end]
            if pieces[-1] in used:
                raise ValueError(f"no token of its own for {pieces[-1]!r}")
        else:
            pieces.append(text[start:end])
        used.add(pieces[-1])
        start = end
    return pieces


def _byte_level(text: str) -> str:
    (found,) = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(
        text
    )
    return str(found[0])


def _write_weights(
    directory: Path, vocabulary: int, successors: Mapping[int, int], end: int
) -> None:
    """Write a layer that adds nothing, and a head that knows each token's successor.

    Directions of random signs are nearly orthogonal: a token's own direction scores HIDDEN_SIZE,
    any other one about the root of that.
    """
    directions = np.random.default_rng(0).choice([-1.0, 1.0], (vocabulary, HIDDEN_SIZE))
    head = np.zeros((vocabulary, HIDDEN_SIZE))
    for token, successor in successors.items():
        head[successor] += directions[token]
    # Whatever else a prompt ends with, the answer ends at once.
    head[end] += 0.05 * directions[end]

    def zeros(rows: int, columns: int) -> NDArray[np.float32]:
        return np.zeros((rows, columns), np.float32)

    ones = np.ones(HIDDEN_SIZE, np.float32)
    block = "model.layers.0."
    weights = {
        "model.embed_tokens.weight": directions.astype(np.float32),
        "model.norm.weight": ones,
        "lm_head.weight": head.astype(np.float32),
        f"{block}self_attn.q_proj.weight": zeros(HEAD_SIZE, HIDDEN_SIZE),
        f"{block}self_attn.k_proj.weight": zeros(HEAD_SIZE, HIDDEN_SIZE),
        f"{block}self_attn.v_proj.weight": zeros(HEAD_SIZE, HIDDEN_SIZE),
        f"{block}self_attn.o_proj.weight": zeros(HIDDEN_SIZE, HEAD_SIZE),
        f"{block}self_attn.q_norm.weight": np.ones(HEAD_SIZE, np.float32),
        f"{block}self_attn.k_norm.weight": np.ones(HEAD_SIZE, np.float32),
        f"{block}mlp.gate_proj.weight": zeros(16, HIDDEN_SIZE),
        f"{block}mlp.up_proj.weight": zeros(16, HIDDEN_SIZE),
        f"{block}mlp.down_proj.weight": zeros(HIDDEN_SIZE, 16),
        f"{block}input_layernorm.weight": ones,
        f"{block}post_attention_layernorm.weight": ones,
    }
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def _write_descriptions(directory: Path, tokenizer: Tokenizer, template: str) -> None:
    end = tokenizer.token_to_id(END_OF_TURN)
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": HEAD_SIZE,
        "hidden_act": "silu",
        "max_position_embeddings": CONTEXT_TOKENS,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "bos_token_id": tokenizer.token_to_id("<|im_start|>"),
        "eos_token_id": end,
        "sliding_window": None,
        "max_window_layers": 1,
        "use_sliding_window": False,
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TURN,
        "pad_token": SPECIAL_TOKENS[0],
        "model_max_length": CONTEXT_TOKENS,
        "chat_template": template,
    }
    generation = {"do_sample": False, "eos_token_id": [end]}
    for name, value in (
        ("config.json", config),
        ("tokenizer_config.json", tokenizer_config),
        ("generation_config.json", generation),
    ):
        (directory / name).write_text(json.dumps(value, indent=1), encoding="utf-8")
