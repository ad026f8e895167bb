"""The command line: ``tsslbp COMMAND``."""

import errno
import shlex
import sys
from pathlib import Path

from tsslbp import __version__
from tsslbp.cli import own, streams
from tsslbp.cli.commands import COMMANDS, overview
from tsslbp.cli.parse import taken
from tsslbp.training import Interrupted
from tsslbp.training.records import resuming
from tsslbp.utils import distributed, imports, startup
from tsslbp.utils.errors import UserError, unknown

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run a command. Exit code 0 if it worked, 2 for bad input (one line says what to do), 130 if interrupted.

    A failed check has exit code 1, and so has a command whose reader has gone (``tsslbp rules | head``).
    """
    streams.prepare()
    try:
        startup.started()
        try:
            with distributed.joined():
                _run(sys.argv[1:] if argv is None else argv)
        finally:
            sys.stdout.flush()  # here, where errors of the stream are handled
        return 0
    except BrokenPipeError:
        return 1
    except (UserError, OSError) as error:
        said = str(error)
        if isinstance(error, OSError) and error.filename is not None:
            said = f"{error.filename} cannot be read or written: {error.strerror}"
        elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
            said = "the output cannot be written, as its disk is full; free space"
        streams.say(f"tsslbp: {' '.join(said.split())}")
        return 2
    except (MemoryError, RuntimeError) as error:
        streams.say(f"tsslbp: {_too_much(error)}")
        return 2
    except Interrupted as stop:
        if distributed.leads():
            streams.say(f"stopped; go on with: {stop}")
        return 130
    except KeyboardInterrupt:
        return 130
    finally:
        streams.discard_rest()


def _run(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return
    if arguments[0] == "--version":
        print(f"tsslbp {__version__}")
        return
    if arguments[0] == "fidelity":  # a command of version 0.1.0
        raise UserError(f"tsslbp fidelity is now: {shlex.join(['tsslbp', 'study', *arguments, '--table'])}")
    if arguments[0] not in COMMANDS:
        raise unknown("command", arguments[0], COMMANDS)
    if distributed.world_size() > 1 and arguments[0] != "train":
        raise UserError(f"torchrun is for tsslbp train; start tsslbp {arguments[0]} without it")
    command, rest, given = arguments[0], arguments[1:], list[Path]()
    if command in own.IMPORTING:
        given, rest = taken("--import", "my_rule.py", rest)
    with imports.given(given):
        own.check()
        try:
            COMMANDS[command](rest)
        except Interrupted as stop:
            raise Interrupted(f"{distributed.command()} {resuming(str(stop))}") from None


def _too_much(error: MemoryError | RuntimeError) -> str:
    """The message if memory or Python's stack was too small; any other error is raised again."""
    if isinstance(error, RecursionError):
        return "the input is nested too deeply; simplify it"
    # PyTorch has no special exception for this.
    signs = ("allocate memory", "not enough memory", "out of memory", "bad_alloc", "Storage size calculation overflowed")
    if any(sign in str(error) for sign in ("aten::new_empty", "the work of a thread")):  # of the kernels, which know no more
        error = MemoryError()
    if not isinstance(error, MemoryError) and not any(sign in str(error) for sign in signs):
        raise error
    reason = " ".join(str(error).split()) or "none is left"
    return f"not enough memory ({reason}); take a smaller network, batch or data set"
