import dataclasses
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from anthropic.types import ModelCapabilities, ModelInfo
from hypothesis import given
from hypothesis import strategies as st
from openai.pagination import SyncPage
from openai.types import Model
from twisted.trial.unittest import SynchronousTestCase

from cortexd.dialects.routes.model_capabilities import capabilities
from cortexd.dialects.routes.models_list import ListedModels
from cortexd.dialects.wire.json_values import decode
from cortexd.dialects.wire.profile import MISTRALRS, Profile, ReasoningControl
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


def list_body(
    entries: Sequence[CatalogueEntry],
    profile_of: Callable[[str], Profile],
    created: int,
    *,
    for_claude: bool = False,
    status_as_object: bool = False,
) -> bytes:
    """Return the list of these models, made for the first time."""
    listed = ListedModels(created, status_as_object=status_as_object)
    models = [listed.make(entry, profile_of(entry.id)) for entry in entries]
    return listed.body(models, for_claude=for_claude)


def model_body(
    entry: CatalogueEntry, profile: Profile, created: int, *, status_as_object: bool = False
) -> bytes:
    """Return one model."""
    return ListedModels(created, status_as_object=status_as_object).make(entry, profile).object


class KeptListTests(SynchronousTestCase):
    def test_nothing_is_made_twice(self) -> None:
        """A model is made anew only when it has changed, or its profile."""
        listed = ListedModels(CREATED)
        before = [listed.make(entry, profile_of(entry.id)) for entry in ENTRIES]
        tiny, base = ENTRIES
        base = dataclasses.replace(base, status=ModelStatus.UNLOADED)

        assert before[0] is listed.make(dataclasses.replace(tiny), MISTRALRS)
        assert b'"status":"unloaded"' in listed.make(base, SMALL).object
        assert before[0] is not listed.make(tiny, SMALL)

    def test_a_model_that_is_gone_is_forgotten(self) -> None:
        """The memory for lists does not grow with all models that ever were."""
        listed = ListedModels(CREATED)
        for number in range(10):
            entry = CatalogueEntry(f"m{number}", ModelStatus.LOADED, ("ada",), ())
            listed.body([listed.make(entry, MISTRALRS)])
        assert ["m9"] == list(listed._made)

    @given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(ModelStatus)), max_size=8))
    def test_a_kept_list_is_the_list_made_anew(
        self, changes: list[tuple[str, ModelStatus]]
    ) -> None:
        """After whatever changes, both have the same bytes."""
        listed = ListedModels(CREATED)
        states = dict.fromkeys("abc", ModelStatus.LOADED)
        for name, status in changes:
            states[name] = status
            entries = [CatalogueEntry(each, now, ("ada",), ("x",)) for each, now in states.items()]
            kept = listed.body([listed.make(entry, MISTRALRS) for entry in entries])
            assert list_body(entries, profile_of, CREATED) == kept


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
            "context_length": 32_768,
            "max_model_len": 32_768,
            "limit": {"context": 32_768, "output": 8_192},
            "capabilities": capabilities(SMALL),
            "status": "loaded",
            "nodes": ["ada", "bob"],
            "aliases": ["code", "quick"],
        } == decode(model_body(ENTRIES[1], SMALL, CREATED))

    def test_list(self) -> None:
        """The list has every model as it is alone, then its aliases, in order, on one page."""
        found = decode(list_body(ENTRIES, profile_of, CREATED))

        tiny, base = (decode(model_body(entry, profile_of(entry.id), CREATED)) for entry in ENTRIES)
        named = [base | {"id": alias, "alias_of": base["id"]} for alias in ("code", "quick")]
        assert [tiny, base, *named] == found.pop("data")
        assert {
            "object": "list",
            "has_more": False,
            "first_id": "/models/tiny",
            "last_id": "quick",
        } == found

    def test_alias_that_is_an_id(self) -> None:
        """An id names itself, so that no alias of the same name is listed."""
        entries = (*ENTRIES, CatalogueEntry("quick", ModelStatus.LOADED, ("ada",), ()))
        found = decode(list_body(entries, profile_of, CREATED))["data"]

        assert ["/models/tiny", "org/base::code", "code", "quick"] == [each["id"] for each in found]
        assert "alias_of" not in found[-1]

    def test_status_as_object(self) -> None:
        """Clients of llama.cpp and llama-swap find the same word one level deeper."""
        found = decode(list_body(ENTRIES, profile_of, CREATED, status_as_object=True))["data"]

        assert [{"value": "unavailable"}, {"value": "loaded"}] == [
            model["status"] for model in found[:2]
        ]
        one = decode(model_body(ENTRIES[1], SMALL, CREATED, status_as_object=True))
        assert {"value": "loaded"} == one["status"]

    def test_capabilities(self) -> None:
        """What is known of a model is told in the words of both SDKs."""
        blind = Profile(vision=False, reasoning_control=ReasoningControl.NONE, tool_turns=False)
        told = decode(model_body(ENTRIES[0], blind, CREATED))["capabilities"]

        assert (False, False, False) == (told["tools"], told["vision"], told["reasoning"])
        for profile in (blind, SMALL):
            abilities = ModelCapabilities.model_validate(capabilities(profile), strict=True)
            assert profile.vision is abilities.image_input.supported
            assert (profile is SMALL) is abilities.thinking.supported is abilities.effort.supported

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
        unknown, known, *_ = decode(list_body(ENTRIES, profile_of, CREATED))["data"]

        assert not {"context_length", "max_model_len", "limit"} & unknown.keys()
        assert (None, None) == (unknown["max_input_tokens"], unknown["max_tokens"])
        page = ModelInfo.model_validate(known)
        assert (32_768, 8_192) == (page.max_input_tokens, page.max_tokens)

    def test_for_claude(self) -> None:
        """Clients of the vendor's are shown the aliases that they let one pick from, and no other.

        Such a name stands for the model behind it, whose own name is shown. All others are shown
        every alias.
        """
        names = ("claude-local", "quick")
        entry = CatalogueEntry("org/base", ModelStatus.LOADED, ("ada",), names)

        plain = decode(list_body([entry], profile_of, CREATED))["data"]
        found = decode(list_body([entry], profile_of, CREATED, for_claude=True))

        assert ["org/base", *names] == [model["id"] for model in plain]
        assert plain[:2] == found["data"]
        assert "org/base" == found["data"][1]["display_name"]
        assert ("org/base", "claude-local") == (found["first_id"], found["last_id"])

    def test_openai(self) -> None:
        """The OpenAI SDK's own types take the list."""
        page = SyncPage[Model].model_validate(
            decode(list_body(ENTRIES, profile_of, CREATED)), strict=True
        )

        assert {(CREATED, "cortex")} == {(each.created, each.owned_by) for each in page.data}
        assert {entry.id for entry in ENTRIES} <= {model.id for model in page.data}

    def test_anthropic(self) -> None:
        """Each model has the fields of the Anthropic reference, its time with its zone."""
        found: list[dict[str, Any]] = decode(list_body(ENTRIES, profile_of, CREATED))["data"]
        for model in found:
            shown = model.get("alias_of", model["id"])
            assert ("model", shown) == (model["type"], model["display_name"])
            assert CREATED == datetime.fromisoformat(model["created_at"]).timestamp()
