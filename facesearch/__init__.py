"""facesearch: photo archives in, "who is this?" answered with a tuned threshold.

The package imports nothing heavy until it is used: torch, faiss and OpenCV are loaded by the stage
that needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from facesearch.errors import FacesearchError
from facesearch.version import __version__

if TYPE_CHECKING:
    from facesearch.engine import Engine

__all__ = ["Engine", "FacesearchError", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Engine":
        from facesearch.engine import Engine

        return Engine
    raise AttributeError(f"module 'facesearch' has no attribute {name!r}")
