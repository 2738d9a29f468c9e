"""``cortexctl probe``: finds out what the chat template of a loaded model can do."""

from __future__ import annotations

from argparse import Namespace
from typing import Final

import msgspec

from cortexd.control.contract import ListModels, ProbeModel, Refused
from cortexd.control.summaries import ModelSummary
from cortexd.ctl.abilities import abilities_text
from cortexd.ctl.client import ControlClient
from cortexd.ctl.progress import POLL_SECONDS, Done, Tell
from cortexd.text import one_line

WANTED: Final = "wanted"
"""The state of abilities while a probe that an operator ordered has not ended."""


async def probe(client: ControlClient, arguments: Namespace, tell: Tell) -> Done:
    """Order a probe of a model; unless ``--no-wait``, wait for its end."""
    answer = await client.ask(ProbeModel, model=arguments.model, node=arguments.node)
    model, nodes = answer["model"], answer["nodes"]
    begun = (
        one_line(f"{model} is probed on {', '.join(nodes)} as soon as nothing runs there") + "\n"
    )
    if not arguments.wait:
        return Done(begun, {"model": model, "nodes": nodes})
    tell(begun)
    while True:
        models: list[ModelSummary] = await client.ask_all(ListModels)
        found = next((each.abilities for each in models if each.id == model), [])
        found = [each for each in found if each.node in nodes]
        if not found:
            raise Refused(f"no node lists {model} any more")
        if all(each.state != WANTED for each in found):
            text = "\n".join(abilities_text(each) for each in found)
            return Done(text, {"model": model, "abilities": msgspec.to_builtins(found)})
        await client.pause(POLL_SECONDS)
