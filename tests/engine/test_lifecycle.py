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
    body = spare.chat_body(max_tokens=40, ignore_eos=True)
    with spare.node.answers_held(), spare.streaming(body) as events:
        next(events)
        assert 1 == spare.in_flight(model)
    assert wait_until(lambda: spare.in_flight(model) == 0)


def test_an_unload_cuts_streams_with_a_clean_end(spare: Caller) -> None:
    """The stream ends without an error, a finish reason or [DONE], as if nothing were wrong."""
    body = spare.chat_body(max_tokens=40, ignore_eos=True)
    with spare.node.answers_held(), spare.streaming(body) as events:
        next(events)
        assert "unloaded" == spare.operate("unload", spare.node.chat_models[0])
        rest = read(events)
    assert ([], [], False) == (rest.finish_reasons, rest.plain_lines, rest.done)


def test_an_unload_fails_answers_that_do_not_stream(spare: Caller) -> None:
    """The request is answered with a 500."""
    model = spare.node.chat_models[0]
    with ThreadPoolExecutor(1) as pool, spare.node.answers_held():
        answer = pool.submit(spare.chat, max_tokens=40, ignore_eos=True)
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
        with spare.node.loads_held():
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


def test_the_gauge_says_whose_a_request_is(spare: Caller) -> None:
    """Operations count for their model, the list for none, and health and metrics not at all."""
    model = spare.node.chat_models[0]
    assert {} == spare.gauge()
    spare.http.get("/health")
    spare.http.get("/v1/models")
    spare.operate("status", model)
    spare.chat(model="no/such")
    spare.chat(model="default", max_tokens=1)
    assert {
        '{method="GET",path="/v1/models",model="none"}': 0,
        f'{{method="POST",path="/v1/models/status",model="{model}"}}': 0,
        '{method="POST",path="/v1/chat/completions",model="unknown"}': 0,
        f'{{method="POST",path="/v1/chat/completions",model="{model}"}}': 0,
    } == spare.gauge()


def test_of_many_reloads_at_once_one_loads(spare: Caller) -> None:
    """The others say reloading at once, and none of them bricks the id."""
    model = spare.node.chat_models[0]
    spare.operate("unload", model)
    with ThreadPoolExecutor(5) as pool:
        with spare.node.loads_held():
            reloads = [pool.submit(spare.operate, "reload", model) for _ in range(5)]
            assert wait_until(lambda: sum(reload.done() for reload in reloads) == 4)
        statuses = sorted(reload.result() for reload in reloads)
    assert ["loaded", *["reloading"] * 4] == statuses
    assert ["loaded"] == spare.listed(model)


def test_what_does_not_fit_is_not_loaded(tight: Caller) -> None:
    """The answer speaks of memory, the model stays unloaded, and may be asked for again."""
    model = tight.node.chat_models[1]
    for _ in range(2):
        outcome = tight.outcome("reload", model)
        assert "internal_error" == outcome["status"]
        assert "CUDA_ERROR_OUT_OF_MEMORY" in outcome["error"]
        assert ["unloaded"] == tight.listed(model)
    answer = tight.chat(model=model)
    assert 500 == answer.status_code
    assert answer.json()["message"].startswith("failed to reload model: failed to load model: ")


def test_two_models_that_do_not_fit_together_take_turns(tight: Caller) -> None:
    """Once the one's memory is back the other loads into it, and back again."""
    here, other = tight.node.chat_models
    full = tight.free_bytes()
    for model_out, model_in in ((here, other), (other, here)):
        assert "unloaded" == tight.operate("unload", model_out)
        assert wait_until(lambda: tight.free_bytes() > full)
        assert "loaded" == tight.operate("reload", model_in)
        assert full == tight.free_bytes()
        assert 200 == tight.chat(model=model_in, max_tokens=1).status_code


def test_an_unload_does_not_wait_for_an_answer_in_one_piece(spare: Caller) -> None:
    """It is answered while several choices are still being made, and they fail."""
    model = spare.node.chat_models[0]
    with ThreadPoolExecutor(1) as pool, spare.node.answers_held():
        answer = pool.submit(spare.chat, n=2, max_tokens=40, ignore_eos=True)
        assert wait_until(lambda: spare.in_flight(model) == 1)
        assert "unloaded" == spare.operate("unload", model)
        assert "unloaded" == spare.operate("status", model)
        assert 500 == answer.result().status_code
