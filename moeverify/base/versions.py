"""Versions of what takes part, for reports and reproduction lines."""

from __future__ import annotations

import platform
import re
import tomllib
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "torch-pruning", "transformers", "safetensors", "lm_eval")
_PROJECT = Path(__file__).parents[2] / "pyproject.toml"

# Pruning is tested from this release on; tracing is under 4.57 as well.
OLDEST_TRANSFORMERS = "5.17"


def versions() -> dict[str, str]:
    """Versions by package name, Python's and our own first; other packages that are not installed are left out."""
    result = {"python": platform.python_version(), "moeverify": _installed("moeverify") or _of_checkout()}
    return result | {package: version for package in PACKAGES if (version := _installed(package)) is not None}


def older_than(package: str, release: str) -> str | None:
    """The installed version of ``package`` if ``release`` is a later one."""
    version = _installed(package)
    return version if version is not None and _numbers(version) < _numbers(release) else None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _of_checkout() -> str:
    """Version in the project file beside the package, where the package runs without being installed."""
    try:
        project = tomllib.loads(_PROJECT.read_text("utf-8"))["project"]
        version = project["version"] if project["name"] == "moeverify" else "unknown"
    except (OSError, ValueError, KeyError):
        version = "unknown"
    return f"{version} (not installed)"
