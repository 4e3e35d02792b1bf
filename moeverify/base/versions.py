"""Versions of what takes part, for reports and reproduction lines."""

from __future__ import annotations

import platform
import tomllib
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "torch-pruning", "transformers", "safetensors", "lm_eval")
_PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def versions() -> dict[str, str]:
    """Versions by package name, Python's and our own first; other packages that are not installed are left out."""
    found = {"python": platform.python_version(), "moeverify": _installed("moeverify") or _of_checkout()}
    return found | {package: version for package in PACKAGES if (version := _installed(package)) is not None}


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _of_checkout() -> str:
    """What the project file beside the package says, where the package runs without being installed."""
    try:
        project = tomllib.loads(_PROJECT.read_text("utf-8"))["project"]
        version = project["version"] if project["name"] == "moeverify" else "unknown"
    except (OSError, ValueError, KeyError):
        version = "unknown"
    return f"{version} (not installed)"
