"""The generator of tiny models: small, and the same for the same seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine.tiny_model import is_embedding_model, write_chat_model, write_embedding_model


@pytest.mark.parametrize("write", [write_chat_model, write_embedding_model])
def test_a_seed_decides_every_byte(tmp_path: Path, write: Callable[..., Path]) -> None:
    """Two directories of one seed are equal, and of another seed differ in the weights alone."""
    first, same, other = (
        contents(write(tmp_path / name, seed=seed)) for name, seed in [("a", 1), ("b", 1), ("c", 2)]
    )
    assert first == same
    assert ["model.safetensors"] == [name for name in first if first[name] != other[name]]


def test_models_are_half_a_megabyte(tmp_path: Path) -> None:
    """Small enough to be written anew for every run."""
    sizes = map(len, contents(write_chat_model(tmp_path, seed=1)).values())
    assert sum(sizes) < 600_000


def test_embedding_models_are_told_from_chat_models(tmp_path: Path) -> None:
    """The directory alone says which kind it holds."""
    assert is_embedding_model(write_embedding_model(tmp_path / "a", seed=1))
    assert not is_embedding_model(write_chat_model(tmp_path / "b", seed=1))


def contents(directory: Path) -> dict[str, bytes]:
    """Read all files under a directory, by their path in it."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}
