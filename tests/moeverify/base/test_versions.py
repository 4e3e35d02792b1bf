"""Our own version is always told, and truly."""

from importlib import metadata

import pytest

from moeverify.base import versions as module


@pytest.fixture
def uninstalled(monkeypatch):
    def version(name):
        if name == "moeverify":
            raise metadata.PackageNotFoundError(name)
        return "1.2"

    monkeypatch.setattr(module.metadata, "version", version)


def test_a_checkout_says_its_version_and_that_it_is_not_installed(uninstalled, tmp_path, monkeypatch):
    project = tmp_path / "pyproject.toml"
    monkeypatch.setattr(module, "_PROJECT", project)
    assert module.versions()["moeverify"] == "unknown (not installed)"
    project.write_text('[project]\nname = "moeverify"\nversion = "7.8.9"\n')
    assert list(module.versions().items())[1:3] == [("moeverify", "7.8.9 (not installed)"), ("torch", "1.2")]
    project.write_text('[project]\nname = "somebody-elses"\nversion = "3"\n')
    assert module.versions()["moeverify"] == "unknown (not installed)"


def test_this_checkout_is_known(uninstalled):
    assert module.versions()["moeverify"][0].isdigit()
