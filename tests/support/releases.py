"""Types of models that older releases of transformers cannot handle by themselves."""

from __future__ import annotations

import pytest

from moeverify.base.versions import older_than

# The release from which on a type runs, loads what it saved, and has an entry for the width of its experts.
WORKS_SINCE = {"dbrx": "5.23", "doge": "5.23", "deepseek_v4": "5.23"}


def needs(model_type: str) -> None:
    """Skip the test where the installed transformers lacks what it needs of ``model_type``."""
    since = WORKS_SINCE.get(model_type)
    if since is not None and (found := older_than("transformers", since)) is not None:
        pytest.skip(f"transformers {found} does not load {model_type} itself, or cannot say its sizes")
