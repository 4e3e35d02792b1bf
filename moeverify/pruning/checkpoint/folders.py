"""Checkpoint folders that appear whole or not at all, whatever ends the run."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from moeverify.base.files import file_errors, stays_inside
from moeverify.base.locks import only_one
from moeverify.base.scratch import remove_left_over
from moeverify.errors import UsageError

# What a checkpoint holds beside its weights and its configuration.
_COMPANIONS = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "chat_template*",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "LICENSE*",
)
_MARKER = "made-by-moeverify"
_MARKER_TEXT = "A run of moeverify writes a checkpoint here. The next run for the same target cleans up.\n"
JOURNAL = "journal"
_REQUEST = "request"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def check_target(
    path: str | Path, *, overwrite: bool = False, source: str | Path | None = None, request: str | None = None
) -> Path:
    """The folder to write; a link is followed. What a killed run left of it is put right first.

    What a run of the same ``request`` left is kept, to go on from there.

    Raises ``UsageError`` if the path exists, is, holds or lies in the ``source``, or has a parent that cannot be
    written. It is also raised for a mount point or the current folder, which cannot be replaced as a whole.
    """
    given = Path(path).expanduser()
    with file_errors(f"write {given}"):
        target = Path(os.path.realpath(given))
        _check_place(given, target, source)
        existing = next(p for p in (target, *target.parents) if p.exists())
        if target.exists() and not target.is_dir():
            raise UsageError(f"{target} is a file; give a folder to save the model in")
        parent = target.parent if existing == target else existing
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise UsageError(f"{parent} cannot be written; choose another folder")
        if _staging(target).exists():
            with _locked(target):
                recover(target, request)
        if target.is_dir() and any(target.iterdir()) and not overwrite:
            raise UsageError(f"{target} is not empty; choose another folder, or replace it with --overwrite")
        if target.is_dir() and not os.access(target, os.W_OK):
            raise UsageError(f"{target} cannot be written; choose another folder")
    return target


def _check_place(given: Path, target: Path, source: str | Path | None) -> None:
    if os.path.ismount(target):
        raise UsageError(f"{given} is a mount point, which cannot be replaced as a whole; give a folder inside it")
    here = Path.cwd()
    if target == here or target in here.parents:
        raise UsageError(f"{given} is the current folder or holds it; give a new folder")
    base = Path(os.path.realpath(Path(source).expanduser())) if source is not None else None
    if base is not None and base.exists() and (target == base or target in base.parents):
        raise UsageError(f"{given} is the source or holds it; choose another folder")
    if base is not None and base.is_dir() and base in target.parents:
        raise UsageError(f"{given} lies inside the source, which stays as it is; choose a folder outside of {source}")


def _staging(target: Path) -> Path:
    """The hidden folder beside ``target`` that holds the new one, and while they are exchanged the old one."""
    return target.parent / f".{target.name}.moeverify"


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    lock = target.parent / f".{target.name}.moeverify.lock"
    with only_one(lock, f"another run writes {target}; wait for it or choose another folder"):
        yield


def recover(target: Path, request: str | None = None) -> None:
    """Clean up after a killed run beside ``target``: the old folder is restored if there is no new one, the rest is
    removed.

    Exception: the unfinished work of a run of the same ``request`` stays. To be called under the lock. Raises
    ``UsageError`` if the hidden folder is not one of ours.
    """
    staging = _staging(target)
    if not staging.exists():
        return
    if not (staging / _MARKER).is_file() and any(staging.iterdir()):
        raise UsageError(f"{staging} is in the way and was not made by moeverify; move it away")
    old = staging / "old"
    if old.is_dir() and not target.exists():
        os.rename(old, target)
    if old.is_dir() or not _left_by(staging, request):
        _clear(staging)


def _left_by(staging: Path, request: str | None) -> bool:
    """Whether a hidden folder holds unfinished work of a request."""
    request_file = staging / JOURNAL / _REQUEST
    return request is not None and request_file.is_file() and request_file.read_text("utf-8") == request


def _clear(staging: Path) -> None:
    """Remove a hidden folder of ours, the marker last: a kill on the way leaves what is known to be ours."""
    for name in (JOURNAL, "new", "old"):
        if os.path.lexists(staging / name):
            shutil.rmtree(staging / name)
    (staging / _MARKER).unlink(missing_ok=True)
    staging.rmdir()


@contextlib.contextmanager
def whole_folder(
    path: str | Path, *, overwrite: bool = False, source: str | Path | None = None, request: str | None = None
) -> Iterator[tuple[Path, Path]]:
    """A new folder that takes the place of the target ``path`` when the block ends, and vanishes if it raises.

    Yields the new folder and the target. ``request`` is a text that names all that the work depends on. With it, a run
    that is killed or interrupted leaves its work. The next run of the same request finds it in the new folder, and its
    journal in ``JOURNAL`` beside that. To be entered before any work, so that what cannot be written is known then. At
    every moment of a kill the old or the new folder is at ``target``, or the next run brings the old one back. Raises
    ``UsageError`` as ``check_target`` does, if the disk does not take it, or if another run was there first.
    """
    target = check_target(path, overwrite=overwrite, source=source, request=request)
    problems = file_errors(f"write {target}", error=UsageError, remedy="nothing was left behind")
    with problems, contextlib.ExitStack() as stack:
        remove_left_over()
        made = _make_parents(target.parent)
        stack.callback(_remove_empty, made)
        stack.enter_context(_locked(target))
        recover(target, request)
        staging = _staging(target)
        staging.mkdir(exist_ok=True)
        stack.push(lambda kind, *_: _discard(staging, target) if _is_over(kind, request) else None)
        (staging / _MARKER).write_text(_MARKER_TEXT)
        new = staging / "new"
        new.mkdir(exist_ok=True)  # with the permissions that the umask leaves
        if request is not None:
            (staging / JOURNAL).mkdir(exist_ok=True)
            (staging / JOURNAL / _REQUEST).write_text(request, "utf-8")
        yield new, target
        _put_in_place(new, staging / "old", target, overwrite)


def _is_over(error: type[BaseException] | None, request: str | None) -> bool:
    """Whether no later run can continue the work: it finished or failed, and was not only interrupted."""
    return request is None or error is None or issubclass(error, Exception)


def _make_parents(parent: Path) -> list[Path]:
    """Make the folders above the target; return those that were not there, innermost first."""
    missing = [p for p in (parent, *parent.parents) if not p.exists()]
    parent.mkdir(parents=True, exist_ok=True)
    return missing


def _remove_empty(folders: list[Path]) -> None:
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _discard(staging: Path, target: Path) -> None:
    old = staging / "old"
    if old.is_dir() and not target.exists():
        os.rename(old, target)
    with contextlib.suppress(OSError):
        _clear(staging)


def _put_in_place(new: Path, old: Path, target: Path, overwrite: bool) -> None:
    if overwrite and target.is_dir() and any(target.iterdir()):
        if not _exchange(new, target):
            os.rename(target, old)
            os.rename(new, target)
        return
    try:
        os.rename(new, target)  # takes the place of nothing, or of an empty folder
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise UsageError(f"{target} was written by something else meanwhile; choose another folder") from error


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders at once; ``False`` where the system or the file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0


def copy_companions(source: Path, target: Path) -> list[str]:
    """Copy tokenizer and other companions of a checkpoint that ``target`` does not have yet.

    Returns the names of those that were left out: links that lead out of the folder, and what is no regular file.
    """
    left_out = []
    for file in sorted({file for pattern in _COMPANIONS for file in source.glob(pattern)}):
        if file.suffix == ".safetensors" or (target / file.name).exists() or file.is_dir():
            continue
        if not stays_inside(file, source) or not stat.S_ISREG(file.stat().st_mode):
            left_out.append(file.name)
            continue
        shutil.copyfile(file, target / file.name)
    return left_out
