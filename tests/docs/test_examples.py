"""Examples in README and docs: Python runs or compiles, commands parse, links lead to files."""

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest
from docs_pages import COMMANDS, PAGES, ROOT, blocks, parse

TUTORIAL = ROOT / "docs" / "tutorial.md"


@pytest.mark.slow
def test_the_tutorial_runs_from_top_to_bottom(capsys):
    names: dict = {}
    for block in blocks(TUTORIAL, "python"):
        exec(compile(block, str(TUTORIAL), "exec"), names)
    assert "masked-equivalence: fail" in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_compiles_and_its_imports_of_ours_exist(page):
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in (
                "moeverify",
                "synthetic_models",
            ):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{page.name}: from {node.module} import {alias.name}"


@pytest.mark.parametrize(
    ("page", "command"), COMMANDS, ids=lambda value: value if isinstance(value, str) else value.name
)
def test_commands_parse(page, command):
    words = shlex.split(command, comments=True)[1:]
    names = parse(words)
    assert names == words[: len(names)]
    assert names or "--help" in words


def test_a_command_that_does_not_exist_is_noticed():
    with pytest.raises(Exception, match=r"--no-such-option") as caught:
        parse(["verify", "zoo:mixtral", "--no-such-option"])
    assert "UsageError" in {kind.__name__ for kind in type(caught.value).__mro__}
    assert len(COMMANDS) > 12


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if target.startswith("https://"):
            continue
        generated = target.startswith("reference/") and Path(target).stem in ("checks", "cli", "api")
        assert generated or (page.parent / target).exists(), f"{page.name} links to {target}"
        inside = page.parent.name != "docs" or not target.startswith("../")
        assert inside, f"{page.name} links to {target}, which the site does not have; name the file instead"
