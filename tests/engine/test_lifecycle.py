"""What every node does when models are unloaded and reloaded, its traps included."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.engine.contract import Caller, read, wait_until


def test_status_knows_loaded_models_and_nothing_else(caller: Caller) -> None:
    """Unknown ids, and the pseudo-model, are not found; the HTTP status is 200 all the same."""
    assert "loaded" == caller.operate("status", caller.node.chat_models[0])
    assert "not_found" == caller.operate("status", "no/such")
    assert "not_found" == caller.operate("status", "default")
    assert "not_found" == caller.operate("unload", "no/such")


@pytest.mark.parametrize("operation", ["status", "reload", "unload"])
def test_model_operations_take_model_id_and_not_model(caller: Caller, operation: str) -> None:
    """The field's name is `model_id`; without it the body is refused as text."""
    response = caller.post(f"/v1/models/{operation}", model=caller.node.chat_models[0])
    assert 422 == response.status_code
    assert response.headers["content-type"].startswith("text/plain")


def test_a_model_is_unloaded_and_reloaded(spare: Caller) -> None:
    """Unload is idempotent, shows in status and list, and reload brings the same model back."""
    model = spare.node.chat_models[1]
    before = spare.chat(model=model).json()["choices"]
    assert "unloaded" == spare.operate("unload", model)
    assert "unloaded" == spare.operate("unload", model)
    assert "unloaded" == spare.operate("status", model)
    assert ["unloaded"] == spare.listed(model)
    assert "loaded" == spare.operate("reload", model)
    assert ["loaded"] == spare.listed(model)
    assert before == spare.chat(model=model).json()["choices"]


def test_a_reload_of_a_loaded_model_bricks_its_id(spare: Caller) -> None:
    """It says not_found, is reloading from then on, still serves, and once unloaded is lost."""
    model = spare.node.chat_models[0]
    assert "not_found" == spare.operate("reload", model)
    assert "reloading" == spare.operate("status", model)
    assert "reloading" == spare.operate("reload", model)
    assert ["loaded", "reloading"] == spare.listed(model)
    assert 200 == spare.chat().status_code
    assert "unloaded" == spare.operate("unload", model)
    assert "reloading" == spare.operate("reload", model)
    lost = spare.chat()
    assert (500, {"message": f"model `{model}` is being reloaded"}) == (
        lost.status_code,
        lost.json(),
    )


def test_a_reload_of_an_unknown_id_leaves_a_phantom(spare: Caller) -> None:
    """It says not_found, and the id is listed as reloading from then on."""
    assert "not_found" == spare.operate("reload", "no/such")
    assert "reloading" == spare.operate("status", "no/such")
    assert ["reloading"] == spare.listed("no/such")


def test_a_stream_that_its_client_leaves_is_given_up(spare: Caller) -> None:
    """The gauge counts an open stream, and no longer does once the client has closed it."""
    model = spare.node.chat_models[0]
    with spare.streaming(spare.chat_body(max_tokens=4000, ignore_eos=True)) as events:
        next(events)
        assert 1 == spare.in_flight(model)
    assert wait_until(lambda: spare.in_flight(model) == 0)


def test_an_unload_cuts_streams_with_a_clean_end(spare: Caller) -> None:
    """The stream ends without an error, a finish reason or [DONE], as if nothing were wrong."""
    body = spare.chat_body(max_tokens=4000, ignore_eos=True)
    with spare.streaming(body) as events:
        next(events)
        assert "unloaded" == spare.operate("unload", spare.node.chat_models[0])
        rest = read(events)
    assert ([], [], False) == (rest.finish_reasons, rest.plain_lines, rest.done)


def test_an_unload_fails_answers_that_do_not_stream(spare: Caller) -> None:
    """The request is answered with a 500."""
    model = spare.node.chat_models[0]
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(spare.chat, max_tokens=4000, ignore_eos=True)
        assert wait_until(lambda: spare.in_flight(model) == 1)
        spare.operate("unload", model)
        response = answer.result()
    assert 500 == response.status_code
    assert {"message": "No response received from the model."} == response.json()


def test_a_request_for_an_unloaded_model_reloads_it(spare: Caller) -> None:
    """Stray traffic loads a model that somebody has just unloaded."""
    model = spare.node.chat_models[1]
    spare.operate("unload", model)
    assert 200 == spare.chat(model=model).status_code
    assert "loaded" == spare.operate("status", model)


def test_while_a_model_reloads_others_are_turned_away(spare: Caller) -> None:
    """A second request fails, a second reload says reloading, and an unload is overruled."""
    model = spare.node.chat_models[0]
    spare.operate("unload", model)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(spare.chat)
        assert wait_until(lambda: spare.operate("status", model) == "reloading")
        second = spare.chat()
        assert "reloading" == spare.operate("reload", model)
        assert "unloaded" == spare.operate("unload", model)
        assert 200 == first.result().status_code
    assert {"message": f"model `{model}` is being reloaded"} == second.json()
    assert 500 == second.status_code
    assert "loaded" == spare.operate("status", model)


def test_the_default_moves_on_and_is_not_restored(spare: Caller) -> None:
    """It is some loaded model; with none loaded it breaks, and a reload does not mend it."""
    broken = {"message": "engine state lock is poisoned"}
    for entry in spare.http.get("/v1/models").json()["data"][1:]:
        assert broken != spare.chat(model="default").json()
        spare.operate("unload", entry["id"])
    nothing = spare.chat(model="no/such")
    assert nothing.json()["message"].endswith("No models are currently loaded.")
    assert "loaded" == spare.operate("reload", spare.node.chat_models[1])
    answer = spare.chat(model="default")
    assert (500, broken) == (answer.status_code, answer.json())
