"""Two stand-in engines, for the self-test and for trying ``served`` without an installation.

A plugin like that of any other package: ``--load moeverify.serving.stand_in --engines stand-in,stand-in-lenient``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from moeverify.serving.registry import Engine, register

_WORKER = Path(__file__).parent / "serve_stand_in.py"

STRICT = register(Engine("stand-in", _WORKER, python=Path(sys.executable), environment={"STAND_IN": "strict"}))
LENIENT = register(
    Engine("stand-in-lenient", _WORKER, python=Path(sys.executable), environment={"STAND_IN": "lenient"})
)
