"""The console that commands print with: names of models and folders never control the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape as _escape
from rich.segment import Segment

from moeverify.base.text import printable


class _PrintableConsole(Console):
    """A console that writes out control characters in what it prints; its own styles and cursor moves stay."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(printable(segment.text, lines=True), segment.style)


def make_console(**options: Any) -> Console:
    """The console that every command prints with."""
    return _PrintableConsole(**options)


def escape(text: object) -> str:
    """Text of a model for a table or line with markup: neither markup nor control characters have an effect."""
    return _escape(printable(text))
