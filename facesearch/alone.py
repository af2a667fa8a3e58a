"""The process that reads suspects one at a time: the other end of `facesearch.ingest.alone`.

It writes nothing, and has nothing in hand by the ledger: it may die at any instant.
"""

from __future__ import annotations

import os
import pickle
import queue
import sys
import threading
from typing import IO

from facesearch.crew import Hello
from facesearch.ingest.alone import ALIVE, DONE, FAILED, READY
from facesearch.ingest.team import sendable
from facesearch.resources import shipped
from facesearch.store.outcomes import FileStamp


def main() -> None:
    """Say what becomes of each file named on stdin, until there is no more stdin."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints
    requests = sys.stdin.buffer
    hello = pickle.load(requests)
    assert isinstance(hello, Hello)
    files: queue.SimpleQueue[FileStamp] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests, files), daemon=True).start()

    def say(kind: str, what: object = None) -> None:
        pickle.dump((kind, what), answers)
        answers.flush()

    try:
        with hello.crew() as crew:
            ours = shipped("demo") / "photos" / "probes" / "group.jpg"
            crew.bulk_extractor(ours.read_bytes(), str(ours))  # what dies of this, dies of any
            say(READY)
            while True:
                say(DONE, crew.read_one(files.get(), hello.collection, lambda: say(ALIVE)))
    except Exception as err:  # noqa: BLE001 - told as one line by who asked
        say(FAILED, sendable(err))


def _listen(requests: IO[bytes], files: queue.SimpleQueue[FileStamp]) -> None:
    """Take in files; with the process that asks, this one ends, even in the middle of one."""
    try:
        while True:
            files.put(pickle.load(requests))
    except EOFError:
        os._exit(0)


if __name__ == "__main__":
    main()
