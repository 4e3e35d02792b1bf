"""Files that are written: nothing is replaced that is no file of ours, and what the system refuses is one line."""

import errno
import os
import resource
import signal
import stat
import threading
from pathlib import Path

import pytest
from safetensors import SafetensorError

from moeverify.base.files import file_errors, write_text
from moeverify.base.locks import only_one
from moeverify.errors import FileError, MoEVerifyError, UsageError
from moeverify.verdict import Status, Verdict
from moeverify.verification.case import Case
from moeverify.verification.events import VerdictReached
from moeverify.verification.journal import NAME, Journal


@pytest.fixture
def umask():
    before = os.umask(0o077)
    yield os.umask
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(("mask", "expected"), [(0o077, 0o600), (0o022, 0o644), (0o027, 0o640)])
def test_the_umask_decides_who_may_read_a_new_file(mask, expected, tmp_path, umask):
    umask(mask)
    assert mode(write_text(tmp_path / "plan.json", "{}")) == expected


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    write_text(tmp_path / "link.json", "new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text() == "new"


def test_a_dangling_link_is_written_through(tmp_path):
    (tmp_path / "link.json").symlink_to("real.json")
    write_text(tmp_path / "link.json", "new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text() == "new"


def test_links_in_a_circle(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(FileError, match="cannot write"):
        write_text(tmp_path / "a", "new")


def test_a_device_stays_a_device(tmp_path):
    write_text(Path("/dev/null"), "x")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_full_device_is_one_line_and_stays_a_device(tmp_path):
    with pytest.raises(FileError, match="No space left on device; free some space"):
        write_text(Path("/dev/full"), "x")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


def test_a_link_to_a_full_device_stays(tmp_path):
    (tmp_path / "report.json").symlink_to("/dev/full")
    with pytest.raises(FileError, match="No space"):
        write_text(tmp_path / "report.json", "x")
    assert (tmp_path / "report.json").is_symlink()


def test_a_pipe_that_is_read_is_written_to(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    got = []
    reader = threading.Thread(target=lambda: got.append(path.read_text()), daemon=True)
    reader.start()
    for _ in range(200):  # until the reader has opened it
        try:
            write_text(path, "x" * 200_000)
            break
        except FileError:
            threading.Event().wait(0.02)
    reader.join(10)
    assert got == ["x" * 200_000]
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_a_pipe_that_nobody_reads_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileError, match="nothing reads from it"):
        write_text(tmp_path / "pipe", "x")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_folder_is_not_replaced(tmp_path):
    with pytest.raises(FileError, match="it is a folder"):
        write_text(tmp_path, "x")


def test_a_name_that_is_too_long(tmp_path):
    with pytest.raises(FileError, match="choose a shorter name"):
        write_text(tmp_path / ("n" * 300), "x")


def test_a_file_in_the_way_of_a_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileError, match="cannot write"):
        write_text(tmp_path / "file" / "report.json", "x")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_limit_on_file_sizes_keeps_the_old_file(tmp_path):
    path = write_text(tmp_path / "report.json", "old")
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(FileError, match="ulimit -f"):
            write_text(path, "x" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_a_working_directory_that_is_gone(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(FileError, match="cannot write"):
        write_text(Path("report.json"), "x")
    monkeypatch.chdir(tmp_path)


def test_a_lone_surrogate_is_written_out(tmp_path):
    assert write_text(tmp_path / "page.html", "a\ud800b").read_text("utf-8") == "a\\ud800b"


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EIO, errno.ENAMETOOLONG]
)
def test_each_error_of_the_system_is_one_line(number):
    with pytest.raises(FileError, match="cannot write model: ") as caught, file_errors("write model"):
        raise OSError(number, os.strerror(number))
    assert "\n" not in str(caught.value)


def test_an_error_of_safetensors_is_one_of_the_system():
    with pytest.raises(UsageError, match="No space"), file_errors("write model", error=UsageError):
        raise SafetensorError("Error while serializing: IoError(Os { code: 28, message: 'No space left on device' })")


def reached():
    return VerdictReached(Case("m"), Verdict("m", "moe", "shapes", Status.PASS, "well"))


def test_a_journal_stays_when_the_report_could_not_be_written(tmp_path):
    journal = Journal(tmp_path / "run", {"sources": ["m"]}, "now", resume=False)
    with pytest.raises(FileError), journal:  # noqa: PT012
        journal(reached())
        raise FileError("cannot write report.json: No space left on device")
    assert (tmp_path / "run" / NAME).read_text().count("verdict") == 1


def test_a_journal_goes_when_the_report_was_read_back(tmp_path):
    with Journal(tmp_path / "run", {"sources": ["m"]}, "now", resume=False) as journal:
        journal(reached())
        journal.complete()
    assert not (tmp_path / "run").exists()


def test_a_wrong_call_leaves_no_journal(tmp_path):
    with pytest.raises(UsageError), Journal(tmp_path / "run", {"sources": ["m"]}, "now", resume=False):
        raise UsageError("unknown subject")
    assert not (tmp_path / "run").exists()


# A file on a full disk cannot be closed either.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:unclosed file:ResourceWarning")
def test_a_full_disk_under_the_journal_is_one_line(tmp_path):
    with Journal(tmp_path / "run", {"sources": ["m"]}, "now", resume=False) as journal:
        journal._file.close()
        journal._file = open("/dev/full", "w")  # noqa: SIM115
        with pytest.raises(FileError, match="No space left on device"):
            journal(reached())
    assert (tmp_path / "run" / NAME).exists()


def test_two_runs_in_one_report_folder(tmp_path):
    with Journal(tmp_path, {"sources": ["m"]}, "now", resume=False) as journal:
        with pytest.raises(UsageError, match=f"process {os.getpid()}"):
            Journal(tmp_path, {"sources": ["m"]}, "now", resume=False)
        journal(reached())
    assert (tmp_path / NAME).read_text().count("verdict") == 1


def test_a_lock_names_its_owner_and_ends_with_it(tmp_path):
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        with only_one(tmp_path / "lock", "busy"):
            os.write(ready[1], b"1")
            os.read(go[0], 1)
            os._exit(9)  # as a kill would end it: the file stays
    os.read(ready[0], 1)
    with pytest.raises(UsageError, match=rf"busy \(process {child}\)"), only_one(tmp_path / "lock", "busy"):
        pass
    os.write(go[1], b"1")
    os.waitpid(child, 0)
    assert (tmp_path / "lock").exists()
    with only_one(tmp_path / "lock", "busy"):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    assert not (tmp_path / "lock").exists()


@pytest.mark.parametrize("there", ["link", "folder", "pipe"])
def test_what_lies_in_the_place_of_a_lock_is_not_touched(there, tmp_path):
    lock = tmp_path / "lock"
    (tmp_path / "mine").write_text("mine")
    {"link": lambda: lock.symlink_to("mine"), "folder": lock.mkdir, "pipe": lambda: os.mkfifo(lock)}[there]()
    with pytest.raises((OSError, MoEVerifyError)), only_one(lock, "busy"):  # noqa: PT012
        assert there == "pipe"  # a pipe can be locked, and is no harm
        raise UsageError("locked")
    assert (tmp_path / "mine").read_text() == "mine"
