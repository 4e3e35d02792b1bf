"""Pruners that leave, hang or interfere in every way that their process allows; named as ``hostile_subjects:NAME``."""

import contextlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import psutil

BUSY = "import time\nwhile True: time.sleep(0.1)"


class Wordless(Exception):
    def __str__(self):
        raise RuntimeError("not even a description")


def exits(model, example_inputs, *, pruning_ratio, seed):
    sys.exit(0)


def interrupts(model, example_inputs, *, pruning_ratio, seed):
    raise KeyboardInterrupt


def ends_a_generator(model, example_inputs, *, pruning_ratio, seed):
    raise GeneratorExit


def says_nothing(model, example_inputs, *, pruning_ratio, seed):
    raise ValueError


def cannot_say_it(model, example_inputs, *, pruning_ratio, seed):
    raise Wordless


def leaves_at_once(model, example_inputs, *, pruning_ratio, seed):
    os._exit(0)


def leaves_from_c(model, example_inputs, *, pruning_ratio, seed):
    import ctypes

    ctypes.CDLL(None)._exit(0)


def _descriptors():
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        with contextlib.suppress(OSError):
            if number > 2 and os.readlink(f"/proc/self/fd/{number}").startswith(("pipe:", "socket:")):
                yield number


def _write_everywhere(data):
    for number in _descriptors():
        with contextlib.suppress(OSError):
            os.set_blocking(number, False)
            os.write(number, data)


def writes_a_line(model, example_inputs, *, pruning_ratio, seed):
    _write_everywhere(b'{"half": ')
    time.sleep(60)


def forges_passes(model, example_inputs, *, pruning_ratio, seed):
    verdict = {"source": "stand_ins:two_layers", "subject": "hostile_subjects:forges_passes", "check": "terminates",
               "status": "pass", "message": "", "evidence": {}, "reproduce": "", "seconds": 0.0}  # fmt: skip
    body = json.dumps({"kind": "verdict", "token": "guessed", "verdict": verdict}).encode()
    _write_everywhere(struct.pack(">4sI", b"MoEv", len(body)) + body)
    os._exit(0)


def changes_group_and_hangs(model, example_inputs, *, pruning_ratio, seed):
    child = subprocess.Popen([sys.executable, "-c", BUSY], start_new_session=True)
    with contextlib.suppress(OSError):
        os.setpgid(0, os.getpgid(child.pid))
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGTERM])
    while True:
        time.sleep(0.1)


def stops_the_fork_server(model, example_inputs, *, pruning_ratio, seed):
    os.kill(os.getppid(), signal.SIGSTOP)
    while True:
        time.sleep(0.1)


def kills_the_fork_server(model, example_inputs, *, pruning_ratio, seed):
    os.kill(os.getppid(), signal.SIGKILL)
    while True:
        time.sleep(0.1)


def deletes_the_folder(model, example_inputs, *, pruning_ratio, seed):
    place = Path(os.environ["MOEVERIFY_RELOAD_SOCKET"]).parent
    assert place.name.startswith("moeverify-")
    shutil.rmtree(place)
    raise RuntimeError("and now I crash")


def floods_the_output(model, example_inputs, *, pruning_ratio, seed):
    for _ in range(100):
        sys.stdout.write("x" * (1 << 20) + "\n")
    print("the last words", flush=True)  # noqa: T201
    os.kill(os.getpid(), signal.SIGSEGV)


HOG = "import time\nheld = []\nwhile True:\n    held.append(bytearray(b'x') * (1 << 25))\n    time.sleep(0.02)"


def lets_a_grandchild_eat(model, example_inputs, *, pruning_ratio, seed):
    subprocess.Popen([sys.executable, "-c", HOG], start_new_session=True)
    time.sleep(60)


def leaves_a_daemon(model, example_inputs, *, pruning_ratio, seed):
    program = f"import os\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\n{BUSY}  # {DAEMON}"
    subprocess.run([sys.executable, "-c", program], check=True)


DAEMON = "left by a subject of a test"


def daemons():
    """Living processes that ``leaves_a_daemon`` left behind."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(DAEMON in word for word in process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def takes_options(model, example_inputs, *, pruning_ratio, seed, ratios=None, round_to=None):
    from moeverify.subjects import prune_moe

    return prune_moe(model, example_inputs, pruning_ratio=pruning_ratio, seed=seed, ratios=ratios, round_to=round_to)


def exits_as_a_factory():
    sys.exit(0)


def exits_as_importance(group):
    sys.exit(0)


class ExitsWhenMade:
    def __init__(self):
        sys.exit(0)
