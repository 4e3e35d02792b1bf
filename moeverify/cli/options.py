"""Options of commands: those of ``Settings``, as typer takes them, and a few that several commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from moeverify.base import forms
from moeverify.base.options import Option
from moeverify.verification.settings import OPTIONS, selected

SourceNames = Annotated[list[str] | None, typer.Argument(help=f"Models: {forms.SOURCES}. Default: a small set.")]
SourceName = Annotated[str, typer.Argument(help=f"The model: {forms.SOURCES}.")]
ReportFolder = Annotated[Path, typer.Argument(help="Folder of a report, or its report.json.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a folder that is there.")]
InMemory = Annotated[
    bool, typer.Option("--in-memory", help="Load the whole model instead of reading its files in turn.")
]


def typer_option(option: Option) -> Any:
    """The annotation under which typer takes an option."""
    kind: Any = list[option.kind] if option.repeated else option.kind  # type: ignore[name-defined]
    if option.kind is not bool and option.default is None:
        kind = kind | None
    number: Any = {"min": option.low, "max": option.high} if option.kind in (int, float) else {}
    return Annotated[kind, typer.Option(option.flag, help=option.help, metavar=option.metavar, **number)]


def with_options(options: Iterable[Option] = OPTIONS) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command these options; its parameter ``options`` gets their values by name."""
    options = tuple(options)

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        own = inspect.signature(command, eval_str=True).parameters
        added = [
            inspect.Parameter(o.name, inspect.Parameter.KEYWORD_ONLY, default=o.default, annotation=typer_option(o))
            for o in options
        ]
        parameters: list[inspect.Parameter] = []
        for name, parameter in own.items():
            parameters += added if name == "options" else [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)]

        def run(**values: Any) -> Any:
            taken = {o.name: values.pop(o.name) for o in options}
            return command(**values, options=taken)

        run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, command.__module__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def _shared(name: str) -> Any:
    (option,) = selected((name,))
    return typer_option(option)


Subject = _shared("subject")
Seed = _shared("seed")
Dtype = _shared("dtype")
Device = _shared("device")
Tasks = _shared("tasks")
Fewshot = _shared("num_fewshot")
Limit = _shared("limit")
BatchSize = _shared("batch_size")
Timeout = _shared("timeout")
Engines = _shared("engines")
EngineTimeout = _shared("engine_timeout")
TrustRemoteCode = _shared("trust_remote_code")
RolesFile = _shared("roles")
ExpertsPattern = _shared("experts_pattern")
RoutersPattern = _shared("routers_pattern")
SharedExpertsPattern = _shared("shared_experts_pattern")
