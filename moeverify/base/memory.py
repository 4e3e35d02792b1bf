"""Errors that are not caused by a model: memory ran out."""

from __future__ import annotations

import re
import signal

_WORDS = re.compile(
    r"MemoryError|OutOfMemory|out of memory|not enough memory|can't allocate memory|cannot allocate memory|"
    r"alloc_cpu|DefaultCPUAllocator|std::bad_alloc|Cannot map|unable to mmap",
    re.IGNORECASE,
)
_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)


def is_out_of_memory(report: BaseException | str, code: int = 0) -> bool:
    """Whether an error, or the output of a process that ended with ``code``, means out of memory.

    A process that was killed is taken for one: the system ends those that take too much.

    >>> is_out_of_memory(MemoryError())
    True
    >>> is_out_of_memory("RuntimeError: size mismatch for lm_head.weight", code=1)
    False
    """
    text = report if isinstance(report, str) else f"{type(report).__name__}: {report}"
    return code in _KILLED or bool(_WORDS.search(text))
