"""Pages of the documentation, their code blocks, and the commands that stand in them."""

import re
import textwrap
from pathlib import Path

import typer

from moeverify.cli import app

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])


def blocks(page, language):
    """The code blocks of a page that name a language, without their indentation."""
    pattern = rf"^( *)```{language}\n(.*?)^ *```"
    return [textwrap.dedent(code) for _, code in re.findall(pattern, page.read_text("utf-8"), re.DOTALL | re.MULTILINE)]


def commands(page):
    """Lines of shell blocks that call moeverify; a placeholder in capitals or dots is a word like any other."""
    lines = (line.strip() for code in blocks(page, "(?:sh|console|bash)") for line in code.splitlines())
    return [line for line in lines if line.startswith("moeverify ") and not line.endswith("...")]


COMMANDS = [(page, command) for page in PAGES for command in commands(page)]


def parse(words):
    """Let the command line read ``words`` without running the command; returns the names of command and subcommands.

    Raises its usage error.
    """
    command, names = typer.main.get_command(app), []
    context = command.make_context("moeverify", list(words))
    while getattr(command, "commands", None):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)
        names.append(name)
    return names
