"""Stores whose process is killed, or whose disk fills, in the middle of writes."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from cortexd.fleet.footprints import LearnedLoad
from cortexd.store.file import FILE_NAME, StoreError
from cortexd.store.journal import JOURNAL_ROWS, TRIMMED_ROWS, Store
from tests.live.daemons import KILLED, STOP_SECONDS

# The thousands of changes take some seconds, on a slow disk a minute.
HANG_SECONDS = 300.0

# Each change is told once its call has returned; the number in it says which it is.
WRITER = """
import sys
from pathlib import Path

from cortexd.fleet.footprints import LearnedLoad
from cortexd.store.journal import Store

store = Store(Path(sys.argv[1]), 0.0)
number = store.last_number
while True:
    number += 1
    pinned = number // 50 % 2 == 0
    store.append(float(number), "load", "gpu-1", f"model-{number % 300}", {"number": number})
    store.set_pin_override("gpu-1", f"model-{number % 50}", pinned)
    store.put_learned("gpu-1", "acme/thinker", LearnedLoad(number, 1.0, 2.0, number, 3.0))
    (store.add_cordon if number % 2 else store.remove_cordon)("gpu-2")
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""

# Begins one new store after the other.
BEGINNER = """
import sys
from pathlib import Path

from cortexd.store.journal import Store

number = 0
while True:
    number += 1
    store = Store(Path(sys.argv[1], str(number)), 0.0)
    store.add_cordon(f"gpu-{number}")
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""

# Fills what it may write, goes on, gets more room, and says what became of it.
FILLER = """
import json
import resource
import sys
from pathlib import Path

from twisted.logger import globalLogPublisher

from cortexd.logs import fields_of
from cortexd.store.journal import Store

events = []
globalLogPublisher.addObserver(lambda event: events.append(fields_of(event)["event"]))
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)

resource.setrlimit(resource.RLIMIT_FSIZE, (0, most))
store = Store(Path(sys.argv[1]), 0.0)
refusal = store.unstored
store.close()

resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, most))
store = Store(Path(sys.argv[1]), 0.0)
for number in range(1, 301):
    store.append(float(number), "load", "gpu-1", "acme/thinker", {"number": number})
store.set_pin_override("gpu-1", "acme/thinker", True)
while_full = list(events)
numbers = [entry.number for entry in store.entries(0, 1000)]

resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
store.add_cordon("gpu-1")
print(json.dumps([refusal, while_full, numbers, events]))
"""


@contextmanager
def killed_after(script: str, directory: Path, changes: int) -> Iterator[list[int]]:
    """Run the script until it has told of so many changes, then kill it; give all it has told."""
    with subprocess.Popen(  # noqa: S603 - a fixed script under this environment's own Python
        [sys.executable, "-c", script, str(directory)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        told: list[int] = []
        impatience = threading.Timer(HANG_SECONDS, process.kill)
        impatience.start()
        try:
            while len(told) < changes:
                told.append(int(process.stdout.readline()))
        finally:
            impatience.cancel()
            process.send_signal(signal.SIGKILL)
        # A line that was cut off has been told by nobody.
        rest = process.stdout.read().rpartition("\n")[0].split()
        told += [int(line) for line in rest]
        assert KILLED == process.wait(STOP_SECONDS)
    yield told


def test_killed_in_the_middle_of_writes(tmp_path: Path) -> None:
    """A kill loses no change whose call had returned, and never the file, time after time."""
    last = 0
    # Over some checkpoints of the log, and over the trimming of the journal.
    for changes in (1, 40, 333, 2000, 5000, 4000, 7):
        with killed_after(WRITER, tmp_path, changes) as told:
            assert list(range(last + 1, last + len(told) + 1)) == told
        store = Store(tmp_path, 0.0)

        # The change that was under way when the kill came may be there as a whole, or not.
        last = store.last_number
        assert last - told[-1] in (0, 1)
        entries = store.entries(0, JOURNAL_ROWS)
        assert list(range(entries[0].number, last + 1)) == [entry.number for entry in entries]
        assert min(last, JOURNAL_ROWS - TRIMMED_ROWS) <= len(entries) <= JOURNAL_ROWS
        assert all({"number": entry.number} == entry.fields for entry in entries)
        learned = store.learned()["gpu-1", "acme/thinker"]
        assert LearnedLoad(learned.loads, 1.0, 2.0, learned.loads, 3.0) == learned
        assert told[-1] <= learned.loads <= last
        pins = store.pin_overrides()
        # The one after it may have been under way too, and is the 50th of these.
        for number in told[-49:]:
            assert pins["gpu-1", f"model-{number % 50}"] is (number // 50 % 2 == 0)
        if last == told[-1]:
            assert (last % 2 == 1) == ("gpu-2" in store.cordons())
        store.close()
    assert [] == list(tmp_path.glob("*damaged*"))
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        assert [("ok",)] == connection.execute("PRAGMA integrity_check").fetchall()


@pytest.mark.parametrize("beginnings", [1, 2, 3, 5, 8, 13, 21, 34])
def test_killed_at_the_beginning(tmp_path: Path, beginnings: int) -> None:
    """A kill while a store is begun leaves one that the next start can use."""
    with killed_after(BEGINNER, tmp_path, beginnings) as told:
        pass

    for number in range(1, told[-1] + 2):
        store = Store(tmp_path / str(number), 0.0)
        if number <= told[-1]:
            assert frozenset({f"gpu-{number}"}) == store.cordons()
        store.add_cordon("gpu-0")
        assert "gpu-0" in store.cordons()
        store.close()


def test_lock_of_a_killed_process(tmp_path: Path) -> None:
    """While a daemon runs a second is refused and told its process; after a kill it is not."""
    with subprocess.Popen(  # noqa: S603 - as above
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        try:
            process.stdout.readline()
            with pytest.raises(StoreError, match=rf"another daemon \(process {process.pid}\)"):
                Store(tmp_path, 0.0)
        finally:
            process.kill()
        process.stdout.read()
        process.wait(STOP_SECONDS)

    Store(tmp_path, 0.0).close()


def test_full_disk(tmp_path: Path) -> None:
    """A full disk refuses the start in one line, costs nothing later on, and is said once."""
    finished = subprocess.run(  # noqa: S603 - as above
        [sys.executable, "-c", FILLER, str(tmp_path)],
        capture_output=True,
        timeout=STOP_SECONDS,
        check=True,
    )

    refusal, while_full, numbers, events = json.loads(finished.stdout)
    assert refusal == "disk I/O error"
    assert ["store_unavailable", "store_failed"] == while_full
    assert [*while_full, "store_writes_again"] == events
    everything = list(range(1, 301))
    assert everything == numbers
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        kept = connection.execute("SELECT number FROM journal").fetchall()
    assert everything == [number for (number,) in kept]
    # The process ended without closing: as good as killed.
    store = Store(tmp_path, 0.0)
    assert {("gpu-1", "acme/thinker"): True} == store.pin_overrides()
    assert frozenset({"gpu-1"}) == store.cordons()
    store.close()
