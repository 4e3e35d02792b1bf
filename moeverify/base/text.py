"""Text that comes from models and folders, as terminals, XML and HTML may show it."""

from __future__ import annotations

import re

# Controls (C0, DEL, C1), surrogates, marks that turn the direction of writing, separators of lines, and characters
# that show nothing: what a terminal obeys, a parser rejects, or a reader does not see.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff0-\ufffb\ufffe\uffff"
    "\U000e0000-\U000e0fff]"
)
_BREAKS = "\n\r\t\v\f\x85\u2028\u2029"


def printable(text: object, *, lines: bool = False) -> str:
    r"""Text of a model or a folder as a terminal, XML and HTML may show it: what controls them is written out.

    Line breaks become spaces; with ``lines``, ``\n`` and tabs stay.

    >>> printable("a\x1b[31mb\nc")
    'a\\x1b[31mb c'
    """
    text = str(text)
    if text.isprintable():
        return text

    def show(match: re.Match[str]) -> str:
        character = match.group()
        if lines and character in "\n\t":
            return character
        if character in _BREAKS:
            return " "
        return character.encode("unicode_escape").decode("ascii")

    return _UNPRINTABLE.sub(show, text)
