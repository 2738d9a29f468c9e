"""``cortexctl sleep`` and ``cortexctl wake``: nodes that sleep."""

from __future__ import annotations

from argparse import Namespace

from cortexd.control.agent_commands import SleepNode, WakeNode
from cortexd.ctl.client import ControlClient
from cortexd.ctl.progress import Done, Tell


async def sleep(client: ControlClient, arguments: Namespace, tell: Tell) -> Done:
    """Let a node sleep."""
    await client.ask(SleepNode, node=arguments.node)
    return _begun(arguments.node, "is let sleep", "sleep")


async def wake(client: ControlClient, arguments: Namespace, tell: Tell) -> Done:
    """Wake a node."""
    await client.ask(WakeNode, node=arguments.node)
    return _begun(arguments.node, "is being woken", "wake")


def _begun(node: str, words: str, ordered: str) -> Done:
    text = f"{node} {words}; `cortexctl events -f` shows the end of it\n"
    return Done(text, {"node": node, "ordered": ordered})
