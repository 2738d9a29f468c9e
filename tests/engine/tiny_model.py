"""Writes half-megabyte model directories that the real engine loads, offline and on the CPU.

The weights are random but the same for the same seed. Nothing they say makes sense; how they say it
(tokens, usage, finish reasons, tool calls, vectors) is the engine's own. Two kinds are written: a
Qwen3 chat model, and a Qwen3 embedding model in the sentence-transformers layout.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

HIDDEN_SIZE = 64
HEADS = 4
KEY_VALUE_HEADS = 2
HEAD_SIZE = 16
CONTEXT_TOKENS = 8192


class Size(NamedTuple):
    """The layers of a model, and the width of each, of which its weights follow."""

    layers: int
    intermediate: int


TINY = Size(2, 128)
LARGE = Size(128, 4096)
"""390 MiB in pieces of one MiB, of which an engine leaves a part behind when it unloads them."""

END_OF_TURN = "<|im_end|>"
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", END_OF_TURN)

# The wheel can neither stream a raw completion nor take a chat without the template. A turn of this
# role leaves the template as it went in, so that a raw prompt is streamed as a chat of one turn.
VERBATIM_ROLE = "verbatim"

# Byte-level tokens let any prompt in. Only these come out, one character a token, so that every
# token is a chunk: half a UTF-8 character would be held back, and chunks be fewer than tokens.
SPOKEN = "abcdefghijklmnopqrstuvwxyz ,."

# One hidden dimension is the same for every token and no layer writes to it, so that the head can
# use it as a bias: low enough that no unspoken token ever wins unless a grammar demands it.
BIAS_DIMENSION = 0
BIAS_INPUT = 1.0
UNSPOKEN_BIAS = -60.0
# Against the noise of the other logits, about 1: most turns end after some hundred tokens.
END_OF_TURN_BIAS = 0.5

# Without this gain on queries and keys the attention is so even that the last token alone decides,
# and every prompt gets the same answer.
ATTENTION_GAIN = 2.0

CHAT_TEMPLATE = (
    "{%- if tools %}<|im_start|>system\nTools:\n"
    "{%- for tool in tools %}{{ tool | tojson }}\n{%- endfor %}<|im_end|>\n{%- endif %}"
    "{%- for message in messages %}"
    "{%- if message['role'] == '" + VERBATIM_ROLE + "' %}{{ message['content'] }}"
    "{%- else %}<|im_start|>{{ message['role'] }}\n"
    # The server gives a list for a user's parts.
    "{%- if message['content'] is string %}{{ message['content'] }}"
    "{%- else %}{%- for part in message['content'] %}{{ part['text'] }}{%- endfor %}{%- endif %}"
    "<|im_end|>\n{%- endif %}"
    "{%- endfor %}"
    "{%- if not (messages and messages[-1]['role'] == '" + VERBATIM_ROLE + "') %}"
    "<|im_start|>assistant\n{%- endif %}"
)


def write_chat_model(
    directory: Path,
    *,
    seed: int,
    context_tokens: int = CONTEXT_TOKENS,
    template: str = CHAT_TEMPLATE,
    size: Size = TINY,
) -> Path:
    """Write a chat model into `directory` (made if missing) and return the directory.

    The same `seed` gives the same weights. `context_tokens` bounds prompt and answer together.
    `template` is its chat template.
    """
    tokenizer = _write_tokenizer(directory)
    weights = _transformer(seed, tokenizer.get_vocab_size(), prefix="model.", size=size)
    weights["lm_head.weight"] = _head(seed, tokenizer)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    _write_config(directory, tokenizer, context_tokens, size)
    _write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": END_OF_TURN,
            "pad_token": SPECIAL_TOKENS[0],
            "model_max_length": context_tokens,
            "chat_template": template,
        },
    )
    _write_json(
        directory / "generation_config.json",
        {"do_sample": False, "eos_token_id": [tokenizer.token_to_id(END_OF_TURN)]},
    )
    return directory


def write_embedding_model(
    directory: Path, *, seed: int, context_tokens: int = CONTEXT_TOKENS
) -> Path:
    """Write an embedding model into `directory` (made if missing) and return the directory.

    Its vectors have 64 dimensions and length 1. `seed` and `context_tokens` as for a chat model.
    """
    tokenizer = _write_tokenizer(directory)
    # The engine looks for an embedding model's tensors without the "model." in front.
    weights = _transformer(seed, tokenizer.get_vocab_size(), prefix="")
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    _write_config(directory, tokenizer, context_tokens)
    _write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": END_OF_TURN,
            "pad_token": SPECIAL_TOKENS[0],
            "model_max_length": context_tokens,
        },
    )
    module = "sentence_transformers.models."
    _write_json(
        directory / "modules.json",
        [
            {"idx": 0, "name": "0", "path": "", "type": module + "Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": module + "Pooling"},
            {"idx": 2, "name": "2", "path": "2_Normalize", "type": module + "Normalize"},
        ],
    )
    pooling = directory / "1_Pooling"
    pooling.mkdir(exist_ok=True)
    _write_json(
        pooling / "config.json",
        {
            "word_embedding_dimension": HIDDEN_SIZE,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": False,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
            "pooling_mode_weightedmean_tokens": False,
            "pooling_mode_lasttoken": True,
            "include_prompt": True,
        },
    )
    return directory


def is_embedding_model(directory: Path) -> bool:
    """Say whether `directory` holds an embedding model: only those list their modules."""
    return (directory / "modules.json").exists()


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


def _write_tokenizer(directory: Path) -> Tokenizer:
    directory.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={byte: index for index, byte in enumerate(alphabet)}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    tokenizer.save(str(directory / "tokenizer.json"))
    return tokenizer


def _write_config(
    directory: Path, tokenizer: Tokenizer, context_tokens: int, size: Size = TINY
) -> None:
    _write_json(
        directory / "config.json",
        {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "vocab_size": tokenizer.get_vocab_size(),
            "hidden_size": HIDDEN_SIZE,
            "intermediate_size": size.intermediate,
            "num_hidden_layers": size.layers,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KEY_VALUE_HEADS,
            "head_dim": HEAD_SIZE,
            "hidden_act": "silu",
            "max_position_embeddings": context_tokens,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "attention_bias": False,
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
            "bos_token_id": tokenizer.token_to_id("<|im_start|>"),
            "eos_token_id": tokenizer.token_to_id(END_OF_TURN),
            # The engine refuses a Qwen3 configuration without these three.
            "sliding_window": None,
            "max_window_layers": size.layers,
            "use_sliding_window": False,
        },
    )


def _transformer(
    seed: int, vocabulary: int, *, prefix: str, size: Size = TINY
) -> dict[str, NDArray[np.float32]]:
    generator = np.random.default_rng(seed)

    def random(rows: int, columns: int, scale: float = 1.0) -> NDArray[np.float32]:
        values = generator.standard_normal((rows, columns)) * scale / np.sqrt(columns)
        return np.asarray(values, np.float32)

    def into_residual(columns: int, scale: float = 1.0) -> NDArray[np.float32]:
        matrix = random(HIDDEN_SIZE, columns, scale)
        matrix[BIAS_DIMENSION, :] = 0.0
        return matrix

    ones = np.ones(HIDDEN_SIZE, np.float32)
    embeddings = generator.standard_normal((vocabulary, HIDDEN_SIZE)).astype(np.float32)
    embeddings[:, BIAS_DIMENSION] = BIAS_INPUT
    weights = {f"{prefix}embed_tokens.weight": embeddings, f"{prefix}norm.weight": ones}
    for layer in range(size.layers):
        block = f"{prefix}layers.{layer}."
        attention = f"{block}self_attn."
        keys = KEY_VALUE_HEADS * HEAD_SIZE
        gain = np.full(HEAD_SIZE, ATTENTION_GAIN, np.float32)
        weights |= {
            f"{attention}q_proj.weight": random(HEADS * HEAD_SIZE, HIDDEN_SIZE),
            f"{attention}k_proj.weight": random(keys, HIDDEN_SIZE),
            f"{attention}v_proj.weight": random(keys, HIDDEN_SIZE),
            # Twice the rest: what a token reads from the others weighs as much as the token itself.
            f"{attention}o_proj.weight": into_residual(HEADS * HEAD_SIZE, scale=2.0),
            f"{attention}q_norm.weight": gain,
            f"{attention}k_norm.weight": gain,
            f"{block}mlp.gate_proj.weight": random(size.intermediate, HIDDEN_SIZE),
            f"{block}mlp.up_proj.weight": random(size.intermediate, HIDDEN_SIZE),
            f"{block}mlp.down_proj.weight": into_residual(size.intermediate),
            f"{block}input_layernorm.weight": ones,
            f"{block}post_attention_layernorm.weight": ones,
        }
    return weights


def _head(seed: int, tokenizer: Tokenizer) -> NDArray[np.float32]:
    generator = np.random.default_rng([seed, HIDDEN_SIZE])
    vocabulary = tokenizer.get_vocab_size()
    head = generator.standard_normal((vocabulary, HIDDEN_SIZE)) / np.sqrt(HIDDEN_SIZE)
    head[:, BIAS_DIMENSION] = UNSPOKEN_BIAS
    for character in SPOKEN:
        (token,) = tokenizer.encode(character, add_special_tokens=False).ids
        head[token, BIAS_DIMENSION] = 0.0
    head[tokenizer.token_to_id(END_OF_TURN), BIAS_DIMENSION] = END_OF_TURN_BIAS
    return np.asarray(head, np.float32)


def main() -> None:
    """Write one model: `python -m tests.engine.tiny_model [--embedding] [--seed N] DIRECTORY`."""
    parser = argparse.ArgumentParser(prog="python -m tests.engine.tiny_model")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--embedding", action="store_true", help="an embedding model, not a chat one"
    )
    options = parser.parse_args()
    write = write_embedding_model if options.embedding else write_chat_model
    write(options.directory, seed=options.seed)


if __name__ == "__main__":
    main()
