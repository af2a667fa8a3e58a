"""Where the `facesearch` command begins: small, so that Ctrl-C is heard from the start."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line."""
    try:
        from facesearch.cli.main import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()
