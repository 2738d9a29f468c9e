"""Types of keys that several tables have, and values that they share."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final

from msgspec import Meta

from cortexd.config.addresses import only

LABEL: Final = "a label of 1 to 64 characters of A-Z a-z 0-9 . _ -"
NODE_NAME: Final = "1 to 64 characters of A-Z a-z 0-9 . _ -"
OCTAL_MODE: Final = '3 or 4 octal digits in quotes, such as "660"'
WORD: Final = "a string without control characters"
LONGEST_RESTART_SECONDS: Final = 86_400.0
"""The most time that a restart of an engine may have: agents refuse orders with a longer limit."""

NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})

Count = Annotated[int, Meta(ge=1)]
CountOrZero = Annotated[int, Meta(ge=0)]
Label = Annotated[str, only(LABEL, re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch)]
Mebibytes = Annotated[int, Meta(gt=0, extra={"noun": "an integer of MiB"})]
MebibytesOrZero = Annotated[int, Meta(ge=0, extra={"noun": "an integer of MiB"})]
NodeName = Annotated[str, only(NODE_NAME, re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch)]
OctalMode = Annotated[str, only(OCTAL_MODE, re.compile(r"[0-7]{3,4}").fullmatch)]
Seconds = Annotated[float, Meta(gt=0, extra={"noun": "a number of seconds"})]
SecondsOrZero = Annotated[float, Meta(ge=0, extra={"noun": "a number of seconds"})]
Word = Annotated[str, only(WORD, lambda value: value != "" and value.isprintable())]
RestartSeconds = Annotated[
    float, Meta(gt=0, le=LONGEST_RESTART_SECONDS, extra={"noun": "a number of seconds"})
]
