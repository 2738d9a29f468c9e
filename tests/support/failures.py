"""Failures, for tests."""

from typing import NoReturn

from twisted.python.failure import Failure


def raised(message: str) -> Failure:
    """Return a Failure with a traceback of its own."""

    def fail() -> NoReturn:
        raise ValueError(message)

    try:
        fail()
    except ValueError:
        return Failure()
