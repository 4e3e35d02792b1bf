"""Reference pages written from the code: checks, the command line, the public names of Python."""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from collections.abc import Iterator

import mkdocs_gen_files
import typer

import moeverify as mv
from moeverify.checks import CHECKS, default_names
from moeverify.cli import app
from moeverify.subjects.faults import all_faults


def checks_page() -> Iterator[str]:
    """Each check: what it proves, what it does not, and the faults that it must catch."""
    caught = defaultdict(list)
    for fault in all_faults():
        for name, message in fault.caught_by.items():
            caught[name].append((fault.name, fault.cause, message))
    yield "# Checks\n\nA check compares the pruned model with its base. Checks run in this order.\n"
    for name, function in CHECKS.items():
        yield f"## {name}\n"
        if name not in default_names():
            yield f"Optional: runs only when it is named, `--checks {name}`.\n"
        yield inspect.cleandoc(function.__doc__ or "") + "\n"
        if caught[name]:
            yield "Faults that it catches, and the message that it fails with (`moeverify self-test`):\n"
            yield "| fault | cause | message matches |\n|---|---|---|"
            for fault, cause, message in caught[name]:
                yield f"| `{fault}` | {cause} | <code>{_cell(message)}</code> |"
            yield ""


def _cell(pattern: str) -> str:
    escaped = pattern.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "&#124;")
    return re.sub(r"([*_`\[\]{}\\])", lambda found: f"&#{ord(found.group(1))};", escaped)


def cli_page() -> Iterator[str]:
    """Each command with its arguments and options."""
    root = typer.main.get_command(app)
    yield "# Command line\n\n`moeverify COMMAND [OPTIONS]`. Options are accepted with `-` or `_` between words.\n"
    yield "Exit codes: 0 nothing failed, 1 something failed, 2 wrong usage or input, 3 a fault of moeverify's own.\n"
    for name, command in sorted(_commands(root, "moeverify")):
        yield f"## {name}\n"
        yield inspect.cleandoc(command.help or "") + "\n"
        for parameter in command.params:
            if getattr(parameter, "hidden", False):
                continue
            if parameter.param_type_name == "argument":
                names = (parameter.metavar or parameter.name).upper()
            else:
                names = ", ".join((*parameter.opts, *parameter.secondary_opts))
            default = parameter.default
            shown = default is not None and not callable(default) and default not in (False, "", ())
            yield f"- `{names}`: {_cell(getattr(parameter, 'help', '') or '')}" + (
                f" Default: `{default}`." if shown else ""
            )
        yield ""


def _commands(command: object, path: str) -> Iterator[tuple[str, object]]:
    for name, inner in getattr(command, "commands", {}).items():
        if getattr(inner, "commands", None):
            yield from _commands(inner, f"{path} {name}")
        else:
            yield f"{path} {name}", inner


def api_page() -> Iterator[str]:
    """The public names."""
    yield "# Python\n\n`import moeverify as mv`. These names stay; what is below them may move.\n"
    for name in sorted(mv.__all__):
        public = getattr(mv, name)
        yield f"::: {public.__module__}.{public.__qualname__}\n"


for page, lines in (("checks", checks_page()), ("cli", cli_page()), ("api", api_page())):
    with mkdocs_gen_files.open(f"reference/{page}.md", "w") as file:
        file.write("\n".join(lines))
