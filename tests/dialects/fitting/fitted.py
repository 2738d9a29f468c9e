"""Fits conversations, and tells what was noted."""

from collections.abc import Sequence

from cortexd.dialects.fitting.fit import fit_messages
from cortexd.dialects.wire.approximations import Approximations
from cortexd.dialects.wire.json_values import JsonObject
from cortexd.dialects.wire.profile import Profile


def fitted(messages: Sequence[JsonObject], profile: Profile) -> list[JsonObject]:
    return fit_messages(messages, profile, Approximations())


def words_for(messages: Sequence[JsonObject], profile: Profile) -> set[str]:
    approximations = Approximations()
    fit_messages(messages, profile, approximations)
    return set(approximations.words())
