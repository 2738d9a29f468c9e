from datetime import datetime
from typing import Any

from anthropic.types import ModelInfo
from openai.pagination import SyncPage
from openai.types import Model
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.routes.models_list import list_body, model_body
from cortexd.dialects.wire.json_values import decode
from cortexd.dialects.wire.profile import MISTRALRS, Profile
from cortexd.fleet.catalogue import CatalogueEntry, ModelStatus
from tests.covers import covers

CREATED = 1_790_000_000
ENTRIES = (
    CatalogueEntry("/models/tiny", ModelStatus.UNAVAILABLE, (), ()),
    CatalogueEntry("org/base::code", ModelStatus.LOADED, ("ada", "bob"), ("code", "quick")),
)
SMALL = Profile(context_window=32_768, max_output=8_192)


def profile_of(model: str) -> Profile:
    """Return what is known of a model: something of the second alone."""
    return SMALL if model == ENTRIES[1].id else MISTRALRS


class ModelTests(SynchronousTestCase):
    def test_model(self) -> None:
        """One model has what both SDKs read, and who has it under which names."""
        assert {
            "id": "org/base::code",
            "object": "model",
            "created": CREATED,
            "owned_by": "cortex",
            "type": "model",
            "display_name": "org/base::code",
            "created_at": "2026-09-21T14:13:20Z",
            "lifecycle": "active",
            "max_input_tokens": 32_768,
            "max_tokens": 8_192,
            "status": "loaded",
            "nodes": ["ada", "bob"],
            "aliases": ["code", "quick"],
        } == decode(model_body(ENTRIES[1], SMALL, CREATED))

    def test_list(self) -> None:
        """The list has every model as it is alone, in order, on one page."""
        found = decode(list_body(ENTRIES, profile_of, CREATED))

        assert [
            decode(model_body(entry, profile_of(entry.id), CREATED)) for entry in ENTRIES
        ] == found.pop("data")
        assert {
            "object": "list",
            "has_more": False,
            "first_id": "/models/tiny",
            "last_id": "org/base::code",
        } == found

    def test_empty_list(self) -> None:
        """A fleet without models has an empty list."""
        assert {
            "object": "list",
            "data": [],
            "has_more": False,
            "first_id": None,
            "last_id": None,
        } == decode(list_body((), profile_of, CREATED))

    @covers("T35")
    def test_limits(self) -> None:
        """T35: the limits that the Anthropic SDK reads are the profile's, null where unknown."""
        unknown, known = decode(list_body(ENTRIES, profile_of, CREATED))["data"]

        assert (None, None) == (unknown["max_input_tokens"], unknown["max_tokens"])
        page = ModelInfo.model_validate(known)
        assert (32_768, 8_192) == (page.max_input_tokens, page.max_tokens)

    def test_for_claude(self) -> None:
        """Clients of the vendor's are shown the aliases that they let one pick from, and no other.

        Such a name stands for the model behind it, whose own name is shown.
        """
        names = ("claude-local", "quick")
        entry = CatalogueEntry("org/base", ModelStatus.LOADED, ("ada",), names)

        plain = decode(list_body([entry], profile_of, CREATED))["data"]
        found = decode(list_body([entry], profile_of, CREATED, for_claude=True))

        assert ["org/base"] == [model["id"] for model in plain]
        assert [plain[0], plain[0] | {"id": "claude-local"}] == found["data"]
        assert "org/base" == found["data"][1]["display_name"]
        assert ("org/base", "claude-local") == (found["first_id"], found["last_id"])

    def test_openai(self) -> None:
        """The OpenAI SDK's own types take the list."""
        page = SyncPage[Model].model_validate(
            decode(list_body(ENTRIES, profile_of, CREATED)), strict=True
        )

        assert [(entry.id, CREATED, "cortex") for entry in ENTRIES] == [
            (model.id, model.created, model.owned_by) for model in page.data
        ]

    def test_anthropic(self) -> None:
        """Each model has the fields of the Anthropic reference, its time with its zone."""
        found: list[dict[str, Any]] = decode(list_body(ENTRIES, profile_of, CREATED))["data"]
        for model in found:
            assert ("model", model["id"]) == (model["type"], model["display_name"])
            assert CREATED == datetime.fromisoformat(model["created_at"]).timestamp()
