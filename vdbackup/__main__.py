"""The window without arguments, the command line with."""

from __future__ import annotations

import sys


def main() -> int:
    """Start what the arguments ask for; the exit status."""
    arguments = sys.argv[1:]
    if arguments:
        from vdbackup import cli
        from vdbackup.settings import Locations, start_log

        start_log(Locations.from_environment())
        return cli.main(arguments)
    from vdbackup.gui import app

    return app.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
