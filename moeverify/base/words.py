"""Lists as users write them on a command line."""

from __future__ import annotations


def words(text: str) -> list[str]:
    """Words between commas or white space.

    >>> words("shapes, reload")
    ['shapes', 'reload']
    """
    return text.replace(",", " ").split()
