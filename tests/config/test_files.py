"""Files that a configuration names: all that is no regular file is refused at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cortexd.config.credentials import credentials_of
from cortexd.config.files import open_regular
from cortexd.config.keys_file import load
from cortexd.config.node_tls import tls_of
from cortexd.config.reading import ConfigError
from cortexd.config.settings import NodeSettings
from cortexd.store.replacing import read_original


def test_a_regular_file_is_read(tmp_path: Path) -> None:
    """A link to one is followed."""
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")

    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"content"


def test_a_directory_is_named_as_one(tmp_path: Path) -> None:
    """The words are those that every program uses."""
    with pytest.raises(IsADirectoryError, match="Is a directory"):
        open_regular(tmp_path)


def _node(**files: Any) -> NodeSettings:
    return NodeSettings(name="a", endpoint="https://127.0.0.1:1", vram_mb=1, **files)


@pytest.mark.parametrize(
    "read",
    [
        load,
        read_original,
        lambda path: credentials_of(_node(api_key_file=path)),
        lambda path: tls_of(_node(ca_file=path)),
        lambda path: tls_of(_node(client_certificate=path, client_key=path)),
    ],
    ids=["keys_file", "keys_file to write", "api_key_file", "ca_file", "client_certificate"],
)
def test_a_pipe_is_refused(read: Callable[[str], object], tmp_path: Path) -> None:
    """A pipe that no one writes would stop its reader for good, and a reload with it."""
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)

    with pytest.raises((ConfigError, OSError), match="no regular file"):
        read(pipe)
