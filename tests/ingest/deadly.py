"""`facesearch`, with decoders that end their process when they meet certain bytes.

    python deadly.py OPTIONS...     as `facesearch OPTIONS...`

A photo or video that ends in b"die of SIGNAL" kills with that signal whoever decodes it. Workers,
and the process that reads alone, import or run this file too, so they die of it as well.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from facesearch import alone as reading_alone
from facesearch.faces import extract
from facesearch.ingest import alone, video
from facesearch.photos.decode import decode
from facesearch.photos.video import sampled

DIE = b"die of "


def obey(data: bytes) -> None:
    """Die, if the data say so."""
    _, told, name = data[-40:].rpartition(DIE)
    if told:
        os.kill(os.getpid(), signal.Signals[name.decode()])


def deadly_decode(data: bytes, *args: Any, **kwargs: Any) -> Any:
    """`decode`, but for such a photo."""
    obey(data)
    return decode(data, *args, **kwargs)


def deadly_sampled(path: str, *args: Any, **kwargs: Any) -> Any:
    """`sampled`, but for such a video."""
    with open(path, "rb") as file:
        obey(file.read())
    return sampled(path, *args, **kwargs)


if __name__ in {"__main__", "__mp_main__"}:  # not where a test imports it
    vars(extract)["decode"] = deadly_decode
    vars(video)["sampled"] = deadly_sampled
    alone.COMMAND = [sys.executable, __file__, "--alone"]

if __name__ == "__main__":
    if sys.argv[1:] == ["--alone"]:
        reading_alone.main()
    else:
        from facesearch.cli.main import main

        main()
