"""The engines, one file each; importing the package registers them, and those of installed packages."""

from moeverify.base.extensions import load_extensions
from moeverify.base.words import words
from moeverify.errors import UsageError
from moeverify.serving.engines import llama_cpp, vllm  # noqa: F401
from moeverify.serving.registry import ENGINES, Engine

__all__ = ["ENGINES", "engine_named", "engines_named"]

load_extensions("engines")


def engine_named(name: str) -> Engine:
    """The engine of a name. Raises ``UsageError`` for an unknown one."""
    if name not in ENGINES:
        raise UsageError(f"unknown engine {name!r}; the engines are {', '.join(ENGINES)}")
    return ENGINES[name]


def engines_named(names: str | tuple[str, ...]) -> tuple[Engine, ...]:
    """The engines of several names, separated by commas if they are one string."""
    given = words(names) if isinstance(names, str) else names
    return tuple(engine_named(name) for name in dict.fromkeys(given))
