"""The command line: ``tsslbp COMMAND``."""

import sys

from tsslbp.cli.commands import COMMANDS
from tsslbp.cli.parse import overview
from tsslbp.errors import UserError, unknown
from tsslbp.training import Interrupted

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run a command. Exit code 0 if it worked, 2 for bad input (one line says what to do), 130 if interrupted.

    A check that did not pass leaves with exit code 1.
    """
    arguments = sys.argv[1:] if argv is None else argv
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(overview(COMMANDS))
            return 0
        if arguments[0] not in COMMANDS:
            raise unknown("command", arguments[0], COMMANDS)
        COMMANDS[arguments[0]](arguments[1:])
        return 0
    except (UserError, OSError) as error:
        print(f"tsslbp: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(f"stopped; go on with: tsslbp train --config {stop}/config.toml --resume", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        return 130
