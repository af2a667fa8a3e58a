"""Where the files are that ship with the package.

A wheel carries the repository's `migrations/` and `indexes/` in `facesearch/_packaged/`; a checkout
has them at its top.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def shipped(folder: str) -> Path:
    """The path of `migrations`, `indexes`, `models` or `demo`, wherever it was installed."""
    for root in (_PACKAGE, _PACKAGE / "_packaged", _PACKAGE.parent):
        if (root / folder).is_dir():
            return root / folder
    raise FileNotFoundError(f"facesearch is installed without its '{folder}' folder: reinstall it")
