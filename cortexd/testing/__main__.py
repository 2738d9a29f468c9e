"""Run one simulated node: `python -m cortexd.testing [--port N] [--fast] [--memory-mb N]`.

The first line on standard output is its URL. SIGTERM or SIGINT stops it. With
`--hold-folder FOLDER` no load ends while the folder contains a file `loads`, and no answer
continues after its first token while it contains a file `answers`.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.task import react

from cortexd.testing.demo import single_node
from cortexd.testing.node import SimulatedNode


async def serve(reactor: Any, options: argparse.Namespace, kind: type[SimulatedNode]) -> None:
    """Listen, print the URL, and serve until the reactor stops."""
    try:
        node = single_node(
            reactor,
            fast=options.fast,
            memory_mb=options.memory_mb,
            cold=options.cold,
            kind=kind,
            version=options.version,
            prompt_token_seconds=options.prompt_token_ms / 1000,
        )
    except ValueError as error:
        raise SystemExit(f"cortexd.testing: {error}. See --memory-mb and --cold.") from error
    if options.hold_folder is not None:
        node.faults.holds_loads = (options.hold_folder / "loads").exists
        node.faults.holds_answers = (options.hold_folder / "answers").exists
    try:
        number = await node.listen(reactor, options.port)
    except CannotListenError as error:
        raise SystemExit(f"cortexd.testing: {error}. Choose another --port.") from error
    sys.stdout.write(f"http://127.0.0.1:{number}\n")
    sys.stdout.flush()
    stopping: Deferred[None] = Deferred()
    reactor.addSystemEventTrigger("before", "shutdown", stopping.callback, None)
    await stopping
    await node.close()


def main(kind: type[SimulatedNode] = SimulatedNode) -> None:
    """Read the command line and run a node of this class."""
    parser = argparse.ArgumentParser(prog="python -m cortexd.testing", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="TCP port (default: a free one)")
    parser.add_argument("--fast", action="store_true", help="answer without delays")
    parser.add_argument("--memory-mb", type=int, default=24_576, help="memory of its GPU, in MiB")
    parser.add_argument(
        "--cold", action="append", default=[], metavar="ID", help="a model that starts unloaded"
    )
    parser.add_argument(
        "--hold-folder", type=Path, help="folder whose files `loads` and `answers` hold these up"
    )
    words = "how long it reads each token of a prompt that is not cached (default: no time)"
    parser.add_argument("--prompt-token-ms", type=float, default=0.0, metavar="MS", help=words)
    parser.add_argument("--version", default="0.9.2", help="of the server that it is like")
    options = parser.parse_args()
    react(lambda reactor: Deferred.fromCoroutine(serve(reactor, options, kind)))


if __name__ == "__main__":
    main()
