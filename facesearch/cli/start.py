"""Where the `facesearch` command begins and ends.

It is small, so that Ctrl-C is heard while the rest is imported.
"""

from __future__ import annotations

import atexit
import os
import sys


def main() -> None:
    """Run the command line.

    A process that has loaded torch is not taken apart at its end: threads of C++ libraries that
    still run then can abort it, after all has been done.
    """
    try:
        from facesearch.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)
    except SystemExit as stop:
        if "torch" not in sys.modules or not isinstance(stop.code, int):
            raise
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(stop.code)
