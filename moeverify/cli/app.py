"""The application that commands register with, and the way errors leave it."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer

from moeverify.base.collector import lasting
from moeverify.base.files import describe_os_error
from moeverify.base.foreign import ForeignExit, by_user, guarded_exits, left_by
from moeverify.base.imports import importing
from moeverify.base.text import printable
from moeverify.base.versions import versions
from moeverify.errors import MoEVerifyError

app = typer.Typer(
    name="moeverify",
    help="Proves, or disproves, that a Mixture-of-Experts model was pruned correctly.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Options may be written with - or _ between words.
    context_settings={
        "token_normalize_func": lambda token: token.replace("_", "-"),
        "help_option_names": ["-h", "--help"],
    },
)


def command(name: str, *, needs: str, group: typer.Typer = app) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a command. The module ``needs`` is imported when the command runs, so that ``--help`` costs little.

    Raises ``DependencyError``, when the command runs, if that module cannot be imported.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*arguments: Any, **options: Any) -> Any:
            # Only once in a process: a later call would keep what it no longer uses.
            with importing(), contextlib.nullcontext() if needs in sys.modules else lasting():
                import_module(needs)
            try:
                return function(*arguments, **options)
            except (KeyboardInterrupt, EOFError) as error:  # which typer takes for the user's
                if by_user(error):
                    raise
                raise ForeignExit(left_by(error).removeprefix("left by ")) from error

        group.command(name)(run)
        return function

    return register


def tolerant_streams() -> None:
    """Let standard output and error write out what their encoding lacks, such as a check mark in ASCII."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _print_versions(wanted: bool) -> None:
    if wanted:
        typer.echo("  ".join(f"{name} {version}" for name, version in versions().items()))
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", help="Print versions and exit.", callback=_print_versions, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks. May stand anywhere.")] = False,
) -> None:
    """Options that every command has."""


# What the place of work or the output refuses is no fault of ours.
_NOT_OURS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.EBADF,
    errno.EIO,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 all pass, 1 something failed, 2 wrong usage or input, 3 our own fault.

    Errors are one line on standard error; ``--debug`` lets the traceback through. A reader that closes the pipe early
    ends the command with 141, as a shell reports it.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    # Models are verified offline unless the user gives a hub name; nothing else may look there.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    tolerant_streams()
    try:
        with guarded_exits():
            code = app(words, standalone_mode=False)
            sys.stdout.flush()
    except BrokenPipeError:
        sys.exit(_pipe_closed())
    except BaseException as error:
        if isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError):
            sys.exit(_pipe_closed())  # typer's own way to leave
        if debug and not isinstance(error, typer.Abort | KeyboardInterrupt):
            raise
        sys.exit(_explained(error))
    sys.exit(code or 0)


def _pipe_closed() -> int:
    """Stop output after the reader closed the pipe, and keep Python from flushing into it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return 141


def _explained(error: BaseException) -> int:
    """Print one line for an error; return the exit code."""
    if isinstance(error, typer.Abort) or by_user(error):
        return _print_error("interrupted", 130)
    if isinstance(error, MoEVerifyError):
        return _print_error(str(error), 2)
    if isinstance(error, ForeignExit) or not isinstance(error, Exception):
        # Nothing of ours exits from inside a command: it is code of the model, the pruner or an importance.
        return _print_error(f"code that moeverify was given {left_by(error)}; nothing was decided", 2)
    # Releases of typer carry click under different names; its usage errors are known by this method.
    if callable(explain := getattr(error, "format_message", None)):
        message = " ".join(explain().split())
        return _print_error(message, 2) if message else 2
    if isinstance(error, OSError) and error.errno in _NOT_OURS:
        place = f"{error.filename}: " if error.filename else "output: "
        return _print_error(f"cannot go on, {place}{describe_os_error(error)}", 2)
    return _print_error(f"internal error, please report it ({left_by(error)}); --debug shows the traceback", 3)


def _print_error(message: str, code: int) -> int:
    try:
        print(f"moeverify: {printable(message)}", file=sys.stderr)
    except OSError:  # nobody reads standard error
        _pipe_closed()
    return code
