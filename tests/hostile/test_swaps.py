"""Replacing a folder: at every moment of a kill the old or the new one is there, or comes back with the next run."""

import errno
import os
import shutil
import stat
from pathlib import Path

import pytest

from moeverify.base.scratch import remove_left_over, scratch_folder
from moeverify.errors import UsageError
from moeverify.pruning.checkpoint import folders
from moeverify.pruning.checkpoint.folders import check_target, whole_folder


@pytest.fixture
def old(tmp_path):
    target = tmp_path / "place" / "out"
    target.mkdir(parents=True)
    (target / "weights").write_text("old")
    return target


def write_new(target, **arguments):
    with whole_folder(target, **arguments) as (new, _):
        (new / "weights").write_text("new")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def killed_at(step, target, *, exchange):
    """Replace ``target`` in a child process that dies, without any clean-up, at the given step of the file system."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    count = 0

    def counted(function):
        def call(*args, **kwargs):
            nonlocal count
            if count == step:
                os._exit(9)
            count += 1
            return function(*args, **kwargs)

        return call

    try:
        if not exchange:
            folders._exchange = lambda one, other: False
        else:
            folders._exchange = counted(folders._exchange)
        os.rename = counted(os.rename)
        os.unlink = counted(os.unlink)
        os.rmdir = counted(os.rmdir)
        shutil.rmtree = counted(shutil.rmtree)
        Path.mkdir = counted(Path.mkdir)
        Path.write_text = counted(Path.write_text)
        write_new(target, overwrite=True)
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.parametrize("exchange", [True, False], ids=["exchanged", "renamed"])
@pytest.mark.parametrize("step", range(14))
def test_killed_at_every_step(step, exchange, old):
    code = killed_at(step, old, exchange=exchange)
    assert code in (0, 9)
    assert code == 9 or step > 4
    check_target(old, overwrite=True)  # what the next run does first
    assert (old / "weights").read_text() in ("old", "new")
    if code == 0:
        assert (old / "weights").read_text() == "new"
    write_new(old, overwrite=True)
    assert (old / "weights").read_text() == "new"
    assert names(old.parent) == ["out"]
    assert names(old) == ["weights"]


def test_between_two_renames_the_old_folder_comes_back(old):
    staging = old.parent / ".out.moeverify"
    staging.mkdir()
    (staging / "made-by-moeverify").write_text("x")
    old.rename(staging / "old")
    (staging / "new").mkdir()
    check_target(old, overwrite=True)
    assert (old / "weights").read_text() == "old"
    assert names(old.parent) == ["out"]


def test_a_block_that_raises_leaves_the_old_folder_and_nothing_else(old):
    with pytest.raises(ZeroDivisionError), whole_folder(old, overwrite=True) as (new, _):  # noqa: PT012
        (new / "weights").write_text("half")
        raise ZeroDivisionError
    assert (old / "weights").read_text() == "old"
    assert names(old.parent) == ["out"]


def test_folders_above_that_were_made_go_again(tmp_path):
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "a" / "b" / "out"):
        raise ZeroDivisionError
    assert names(tmp_path) == []


def test_a_full_disk_leaves_the_old_folder(old):
    message = "No space left on device; nothing was left behind"
    with pytest.raises(UsageError, match=message), whole_folder(old, overwrite=True):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert (old / "weights").read_text() == "old"
    assert names(old.parent) == ["out"]


def test_a_hidden_folder_that_is_not_ours_is_not_touched(old):
    theirs = old.parent / ".out.moeverify"
    theirs.mkdir()
    (theirs / "mine").write_text("mine")
    with pytest.raises(UsageError, match="was not made by moeverify"):
        write_new(old, overwrite=True)
    assert (theirs / "mine").read_text() == "mine"


def test_a_link_in_place_of_the_hidden_folder_is_not_followed(old, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "made-by-moeverify").write_text("x")
    (mine / "file").write_text("mine")
    (old.parent / ".out.moeverify").symlink_to(mine)
    with pytest.raises(UsageError):
        write_new(old, overwrite=True)
    assert (mine / "file").read_text() == "mine"
    assert (old / "weights").read_text() == "old"


def test_a_second_run_is_refused_with_the_number_of_the_first(tmp_path):
    with whole_folder(tmp_path / "out") as (new, _):
        (new / "weights").write_text("first")
        with pytest.raises(UsageError, match=f"process {os.getpid()}"):
            write_new(tmp_path / "out")
    assert (tmp_path / "out" / "weights").read_text() == "first"


def test_what_appeared_meanwhile_is_not_replaced(tmp_path):
    target = tmp_path / "out"
    message = "written by something else meanwhile"
    with pytest.raises(UsageError, match=message), whole_folder(target) as (new, _):  # noqa: PT012
        (new / "weights").write_text("new")
        target.mkdir()
        (target / "weights").write_text("theirs")
    assert (target / "weights").read_text() == "theirs"
    assert names(tmp_path) == ["out"]


def test_without_overwrite_a_folder_stays(old):
    with pytest.raises(UsageError, match="--overwrite"):
        write_new(old)
    assert (old / "weights").read_text() == "old"


def test_the_source_what_holds_it_and_what_lies_in_it_are_refused(old):
    for target in (old, old.parent, old / ".", old.parent / "." / "out"):
        with pytest.raises(UsageError, match="source"):
            check_target(target, overwrite=True, source=old)
    for target in (old / "out", old / "deep" / "out"):
        with pytest.raises(UsageError, match="inside the source"):
            check_target(target, source=old)
    link = old.parent / "link"
    link.symlink_to(old)
    with pytest.raises(UsageError, match="inside the source"):
        check_target(old / "out", source=link)
    with pytest.raises(UsageError, match="source"):
        check_target(link, overwrite=True, source=old)
    with pytest.raises(UsageError, match="source"):
        check_target(old, overwrite=True, source=link)


def test_the_current_folder_and_mount_points_are_refused_at_once(tmp_path, monkeypatch):
    for target in (".", tmp_path, tmp_path.parent, "..", "/"):
        with pytest.raises(UsageError, match=r"current folder|mount point"):
            check_target(target, overwrite=True)
    with pytest.raises(UsageError, match="mount point"):
        check_target("/proc", overwrite=True)
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "volume")
    with pytest.raises(UsageError, match="mount point"):
        check_target(tmp_path / "volume")


def test_a_link_is_written_through(old, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(old)
    write_new(link, overwrite=True)
    assert link.is_symlink()
    assert (old / "weights").read_text() == "new"


def test_a_dangling_link_is_written_through(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    write_new(link)
    assert link.is_symlink()
    assert (tmp_path / "real" / "weights").read_text() == "new"


@pytest.mark.parametrize(("mask", "expected"), [(0o077, 0o700), (0o022, 0o755)])
def test_the_umask_decides_who_may_enter_a_new_folder(mask, expected, tmp_path):
    before = os.umask(mask)
    try:
        write_new(tmp_path / "out")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == expected


@pytest.mark.parametrize("target", ["n" * 300, "/proc/out", "/dev/null/out", "file/out", "file", "circle"])
def test_places_that_cannot_be_written(target, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(UsageError) as caught:
        write_new(tmp_path / target)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["circle", "file"]


def test_a_working_directory_that_is_gone(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(UsageError):
        write_new("out")
    monkeypatch.chdir(tmp_path)


def leave_scratch(place):
    """A child process that is killed while it holds a temporary folder."""
    child = os.fork()
    if child == 0:
        with scratch_folder("test", place) as folder:
            (folder / "model").write_text("large")
            os._exit(9)
    os.waitpid(child, 0)


def test_temporary_folders_of_killed_runs_go_with_the_next(tmp_path):
    leave_scratch(tmp_path)
    (tmp_path / "moeverify-mine").mkdir()
    (tmp_path / "moeverify-link").symlink_to(tmp_path / "moeverify-mine")
    with scratch_folder("test", tmp_path) as in_use:
        assert len(remove_left_over(tmp_path)) == 1
        assert names(tmp_path) == sorted(["moeverify-link", "moeverify-mine", in_use.name])
    assert names(tmp_path) == ["moeverify-link", "moeverify-mine"]


def test_a_temporary_folder_of_a_process_that_lives_stays(tmp_path):
    with scratch_folder("test", tmp_path) as folder:
        child = os.fork()
        if child == 0:
            os._exit(len(remove_left_over(tmp_path)))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert folder.is_dir()
