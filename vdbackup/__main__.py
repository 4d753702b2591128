"""The window without arguments, the command line with."""

from __future__ import annotations

import sys


def main() -> int:
    """Start what the arguments ask for; the exit status."""
    try:
        return _started(sys.argv[1:])
    except KeyboardInterrupt:  # before anything was begun: Python was reading the program
        return 130


def _started(arguments: list[str]) -> int:
    if arguments:
        from vdbackup import cli
        from vdbackup.settings import Locations, start_log

        start_log(Locations.from_environment())
        return cli.main(arguments)
    from vdbackup.gui import app

    return app.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
