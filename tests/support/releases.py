"""Types of models that older releases of transformers cannot handle by themselves."""

from __future__ import annotations

import pytest

from moeverify.base.versions import older_than

# The release from which on a type runs, and its configuration can be built again: under 5.17 doge's forward fails, and
# before 5.20 DbrxConfig refuses what it wrote itself.
WORKS_SINCE = {"dbrx": "5.20", "doge": "5.18"}


def needs(model_type: str) -> None:
    """Skip the test where the installed transformers lacks what it needs of ``model_type``."""
    since = WORKS_SINCE.get(model_type)
    if since is not None and (found := older_than("transformers", since)) is not None:
        cause = f"transformers {found} does not run {model_type}, or cannot build its configuration again"
        pytest.skip(f"{cause}; `tox run -e tests` has a release that does")
