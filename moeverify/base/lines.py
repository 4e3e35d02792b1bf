"""Lines of the user's code: where the running operation was asked for, where an exception came from."""

from __future__ import annotations

import os
import sys
import sysconfig
import traceback
from functools import cache
from types import FrameType

import torch
import torch_pruning

# Frames of these are no user's code: PyTorch, Torch-Pruning, Python's own modules and this package.
_LIBRARIES = tuple(
    os.path.join(folder, "")
    for folder in (
        os.path.dirname(os.path.abspath(torch.__file__)),
        os.path.dirname(os.path.abspath(torch_pruning.__file__)),
        os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
        sysconfig.get_path("stdlib"),
    )
)
_PACKAGES = os.path.join(sysconfig.get_path("purelib"), "")


@cache
def _is_users(file: str) -> bool:
    inside = file.startswith(_LIBRARIES) and not file.startswith(_PACKAGES)
    library = any(file.startswith(folder) for folder in _LIBRARIES[:3])
    return not (inside or library or file.startswith("<"))


def line_of_running_code() -> str:
    """``file:line`` of the innermost running frame that is the user's code; empty if there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if _is_users(frame.f_code.co_filename):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def line_of_error(error: BaseException) -> str:
    """``file:line`` of the user's code that an exception passed through last; empty if there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    return next((f"{f.filename}:{f.lineno}" for f in reversed(frames) if _is_users(f.filename)), "")
