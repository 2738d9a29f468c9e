"""Run one simulated node: `python -m cortexd.testing [--port N] [--fast]`.

The first line on standard output is its URL. It ends with SIGTERM or SIGINT.
"""

import argparse
import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.task import react

from cortexd.testing.demo import single_node


async def serve(reactor: Any, port: int, *, fast: bool) -> None:
    """Listen, say where, and serve until the reactor stops."""
    node = single_node(reactor, fast=fast)
    try:
        number = await node.listen(reactor, port)
    except CannotListenError as error:
        raise SystemExit(f"cortexd.testing: {error}. Choose another --port.") from error
    sys.stdout.write(f"http://127.0.0.1:{number}\n")
    sys.stdout.flush()
    stopping: Deferred[None] = Deferred()
    reactor.addSystemEventTrigger("before", "shutdown", stopping.callback, None)
    await stopping
    await node.close()


def main() -> None:
    """Read the command line and run the node."""
    parser = argparse.ArgumentParser(prog="python -m cortexd.testing", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="TCP port (default: a free one)")
    parser.add_argument("--fast", action="store_true", help="answer without any waiting")
    options = parser.parse_args()
    react(lambda reactor: Deferred.fromCoroutine(serve(reactor, options.port, fast=options.fast)))


if __name__ == "__main__":
    main()
