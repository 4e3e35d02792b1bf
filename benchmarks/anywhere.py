"""Reasons whose paths hold on any machine, for tables that are committed."""

from pathlib import Path


def anywhere(text: str) -> str:
    """``text`` with paths relative to where packages are installed, or to this repository.

    >>> anywhere("chosen by data, at /usr/lib/python3/site-packages/a/b.py:4")
    'chosen by data, at a/b.py:4'
    """
    root = str(Path(__file__).parents[1])
    words = (w.partition("site-packages/")[2] if "site-packages/" in w else w for w in text.split(" "))
    return " ".join(words).replace(root + "/", "")
