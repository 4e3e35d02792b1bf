"""Files that the documentation names exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = "moeverify|synthetic_models|wild_models|benchmarks|examples|tests|docs"
PATH = re.compile(rf"`((?:{FOLDERS})/[\w./-]*)`")


def paths_in(text):
    return PATH.findall(text)


def test_paths_are_recognised():
    text = "see `moeverify/checks/__init__.py`, `tests/extension/`, and `reports/out.json` or moeverify/none.py"
    assert paths_in(text) == ["moeverify/checks/__init__.py", "tests/extension/"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    assert [path for path in paths_in(page.read_text("utf-8")) if not (ROOT / path).exists()] == []
