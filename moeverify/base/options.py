"""Options that command line, pytest plugin and reproduce line are derived from: each is declared once, on a field."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Option:
    """One option as users write it.

    Attributes:
        name: with underscores; ``max_drop`` is written ``--max-drop``.
        kind: type of its word; ``bool`` is a flag without a word.
        default: value if the option is not given.
        help: one line for ``--help``.
        repeated: the option may be given again; its value is a list.
        metavar: word that stands for the value in ``--help``.
        low: smallest number that is accepted.
        high: largest number that is accepted.

    """

    name: str
    kind: type = str
    default: Any = None
    help: str = ""
    repeated: bool = False
    metavar: str | None = None
    low: float | None = None
    high: float | None = None

    @property
    def flag(self) -> str:
        """The option on the command line of ``moeverify``."""
        return f"--{self.name.replace('_', '-')}"


def option(
    default: Any,
    text: str,
    *options: Option,
    kind: type = str,
    read: Callable[[Mapping[str, Any]], Any] | None = None,
    write: Callable[[Any], list[str]] | None = None,
    limit: bool = False,
    always: bool = False,
    **more: Any,
) -> Any:
    """Return a dataclass field that is set by the option of its name, or by ``options``.

    ``read`` makes the field's value of the options' values, ``write`` makes command-line words of it.
    ``limit`` marks what bounds a run without changing what is found, ``always`` what is written even if it has its
    default. ``more`` goes to ``Option``.
    """
    metadata = {"help": text, "options": options, "kind": kind, "more": more}
    metadata |= {"read": read, "write": write, "limit": limit, "always": always}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=dict, hash=False, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def options_of_field(field: dataclasses.Field[Any]) -> tuple[Option, ...]:
    """Options that set one field; none for a field that was not made by ``option``."""
    data = field.metadata
    if "options" not in data:
        return ()
    return data["options"] or (Option(field.name, data["kind"], field.default, data["help"], **data["more"]),)


def options_of(kind: type) -> tuple[Option, ...]:
    """All options of a dataclass, in the order of its fields."""
    return tuple(o for field in dataclasses.fields(kind) for o in options_of_field(field))


def read_fields(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for the dataclass ``kind`` from the options' values; an option that is missing has its default."""
    values = {o.name: o.default for o in options_of(kind)} | dict(values)
    result = {}
    for field in dataclasses.fields(kind):
        if options_of_field(field):
            read = field.metadata["read"]
            result[field.name] = read(values) if read else values[field.name]
    return result


def given(flag: str, text: str) -> list[str]:
    """Words that give an option its value, also one that begins with a dash."""
    return [f"{flag}={text}"] if text.startswith("-") else [flag, text]


def written_words(settings: Any) -> list[str]:
    """Words of a command line that give these settings; most of what has its default is left out."""
    words: list[str] = []
    for field in dataclasses.fields(settings):
        if not options_of_field(field):
            continue
        value = getattr(settings, field.name)
        if write := field.metadata["write"]:
            words += write(value)
        elif value != field.default or field.metadata["always"]:
            flag = options_of_field(field)[0].flag
            words += [flag] if value is True else given(flag, str(value))
    return words
