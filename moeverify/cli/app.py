"""The application that commands register with, and the way errors leave it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

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
    """Options that every command knows."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 all pass, 1 something failed, 2 wrong usage or input, 3 our own fault.

    Errors are one line on standard error; ``--debug`` lets the traceback through.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    # Models are verified offline unless the user gives a hub name; nothing else may look there.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        code = app(words, standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(_say("interrupted", 130))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except MoEVerifyError as error:
        if debug:
            raise
        sys.exit(_say(str(error), 2))
    except Exception as error:
        # Releases of typer carry click under different names; its usage errors are known by this method.
        if callable(explain := getattr(error, "format_message", None)):
            message = " ".join(explain().split())
            sys.exit(_say(message, 2) if message else 2)
        if debug:
            raise
        line = " ".join(f"{type(error).__name__}: {error}".split())
        sys.exit(_say(f"internal error, please report it ({line}); --debug shows the traceback", 3))
    sys.exit(code or 0)


def _say(message: str, code: int) -> int:
    print(f"moeverify: {message}", file=sys.stderr)
    return code
