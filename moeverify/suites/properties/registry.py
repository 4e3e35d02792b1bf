"""The registry of properties, and the way one is tried on one spec."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moeverify.errors import UsageError
from moeverify.suites.properties.trial import NotApplicable, PropertyFailed

if TYPE_CHECKING:
    from moeverify.suites.properties.trial import Trial
    from synthetic_models import Spec

# No tiny model takes a second; a subject that needs this long hangs.
SECONDS = 30.0


@dataclass(frozen=True)
class Property:
    """A named function that raises ``PropertyFailed`` where the property does not hold.

    ``own``: it needs our own graph and plans, so that no other subject can be tried; ``groups``: it only reads the
    groups of an unpruned model, so that several such properties are tried on one graph. ``spare``: it removes whole
    experts, so that specs are drawn that have some to spare.
    """

    name: str
    run: Callable[[Trial], None]
    own: bool = False
    groups: bool = False
    spare: bool = False

    @property
    def summary(self) -> str:
        """The first paragraph of the function's docstring, in one line."""
        return " ".join((self.run.__doc__ or "").split("\n\n")[0].split())


PROPERTIES: dict[str, Property] = {}


def prop(
    name: str, *, own: bool = False, groups: bool = False, spare: bool = False
) -> Callable[[Callable[[Trial], None]], Callable]:
    """Register a property under its stable name."""

    def register(function: Callable[[Trial], None]) -> Callable[[Trial], None]:
        if name in PROPERTIES:
            raise ValueError(f"two properties are named {name}")
        PROPERTIES[name] = Property(name, function, own, groups, spare)
        return function

    return register


def check_property(
    name: str,
    spec: Spec,
    *,
    subject: str = "moe",
    pruning_ratio: float = 0.5,
    seed: int = 0,
    seconds: float = SECONDS,
) -> None:
    """Try one property on one spec.

    Raises ``PropertyFailed`` if it does not hold, or the subject crashes or takes longer than ``seconds``. Raises
    ``NotApplicable`` if it does not apply to this spec and subject, and ``UsageError`` for an unknown name.

    >>> from synthetic_models import Spec
    >>> check_property("truth", Spec(router="hash"))
    """
    from moeverify.suites.properties.trial import Trial

    if name not in PROPERTIES:
        raise UsageError(f"unknown property {name!r}; the properties are {', '.join(PROPERTIES)}")
    if PROPERTIES[name].own and subject != "moe":
        raise NotApplicable("it is about our own groups and plans")
    with time_limit(seconds):
        PROPERTIES[name].run(Trial(spec, subject, pruning_ratio, seed))


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise ``PropertyFailed`` in the running code after ``seconds`` of processor time, or ten times as much by the
    clock (a busy machine is no hang). Without effect outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(*_: object) -> None:
        raise PropertyFailed(f"the subject did not finish within {seconds:g} s")

    timers = ((signal.ITIMER_PROF, signal.SIGPROF, seconds), (signal.ITIMER_REAL, signal.SIGALRM, 10 * seconds))
    before = [signal.signal(kind, late) for _, kind, _ in timers]
    for timer, _, limit in timers:
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for (timer, kind, _), handler in zip(timers, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(kind, handler)
