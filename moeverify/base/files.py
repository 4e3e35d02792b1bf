"""Files that are never left half written, and one line for what the operating system refuses."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from moeverify.errors import FileError, MoEVerifyError

_REMEDIES = {
    errno.ENOSPC: "free some space or choose another disk",
    errno.EDQUOT: "free some space or choose another disk",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f) or choose another disk",
    errno.EACCES: "choose a place that is writable",
    errno.EPERM: "choose a place that is writable",
    errno.EROFS: "choose a place that is writable",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "the links lead in a circle",
    errno.ENXIO: "nothing reads from it",
}


@contextlib.contextmanager
def file_errors(action: str, *, error: type[MoEVerifyError] = FileError, remedy: str = "") -> Iterator[None]:
    """Turn errors of the operating system, and of safetensors, into one line: ``cannot ACTION: cause; remedy``.

    Args:
        action: What is done, with the path, such as ``write report.json``.
        error: The class that is raised.
        remedy: What to do next, in place of what the cause suggests.

    Example::

        with file_errors(f"write {path}"):
            path.write_text(text)

    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as problem:
        raise error(f"cannot {action}: {describe_os_error(problem, remedy)}") from problem


def describe_os_error(problem: Exception, remedy: str = "") -> str:
    """Cause and remedy of an error of the operating system, in one line."""
    number = getattr(problem, "errno", None)
    cause = getattr(problem, "strerror", None) or " ".join(str(problem).split())[:300] or type(problem).__name__
    advice = remedy or _REMEDIES.get(number or 0, "")
    return f"{cause}; {advice}" if advice else cause


def write_text(path: Path, text: str) -> Path:
    """Write ``text`` beside ``path`` and rename it into place, with the permissions that the umask leaves.

    A link is written through. A device or pipe is written to as it is. Raises ``FileError`` if that cannot be done.
    """
    data = text.encode("utf-8", "backslashreplace")  # a lone surrogate is no reason to lose a report
    with file_errors(f"write {path}"):
        try:
            kind = stat.S_IFMT(os.stat(path).st_mode)
        except FileNotFoundError:
            kind = None
        if kind == stat.S_IFDIR:
            raise FileError(f"cannot write {path}: it is a folder; name a file")
        if kind not in (None, stat.S_IFREG) or _is_descriptor(path):
            _write_into(path, data)
        else:
            _replace(Path(os.path.realpath(path)), data)
    return path


def _is_descriptor(path: Path) -> bool:
    """Whether a path names an open file of this process, such as ``/dev/stdout``: another file there is not it."""
    return path.parts[:2] in (("/", "dev"), ("/", "proc"))


def _write_into(path: Path, data: bytes) -> None:
    # A pipe that nobody reads would block for ever; without blocking, opening it is an error.
    handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    os.set_blocking(handle, True)
    with os.fdopen(handle, "wb") as file:
        file.write(data)


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".moeverify-{secrets.token_hex(8)}"
    # Opened with 0666, so that the umask decides; mkstemp would make it private whatever the umask is.
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def stays_inside(file: Path, folder: Path) -> bool:
    """Whether a file is in ``folder`` once its links are followed.

    Exception: the hub's cache, where ``snapshots/COMMIT/NAME`` is a link into ``blobs`` of the same repository.
    """
    real, home = Path(os.path.realpath(file)), Path(os.path.realpath(folder))
    if home in real.parents:
        return True
    return home.parent.name == "snapshots" and real.parent == home.parent.parent / "blobs"
