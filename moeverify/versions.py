"""Versions of what takes part, for reports and reproduction lines."""

from __future__ import annotations

import platform
from importlib import metadata

PACKAGES = ("moeverify", "torch", "torch-pruning", "transformers", "safetensors", "lm_eval")


def versions() -> dict[str, str]:
    """Installed versions by package name, Python's own first; packages that are not installed are left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
