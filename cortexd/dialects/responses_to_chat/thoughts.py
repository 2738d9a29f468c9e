"""The model's thinking in ``encrypted_content``, which only cortexd reads.

A client sends it back with the next turn, also if it has not stored the summary. It is not secret:
it only travels under the name that OpenAI gave to it.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

_MARK: Final = "cortex1."
"""The beginning of our content; that of another server is unreadable here."""


def conceal(text: str) -> str:
    """Return a text as the content of an item."""
    return _MARK + base64.urlsafe_b64encode(text.encode()).decode()


def reveal(content: str) -> str | None:
    """Return the text in a content, ``None`` if it is not ours or is damaged."""
    if not content.startswith(_MARK):
        return None
    try:
        return base64.b64decode(content[len(_MARK) :], altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        return None
