"""Loading a saved model in a fresh process of plain transformers.

The process imports nothing of ours. Importing transformers takes seconds of processor time. A run of many cases keeps
one such process, which forks for each request before any model was loaded. What loads the model is as fresh as a
process that has just imported transformers. It is started before a subject runs, in an environment that no subject has
touched, and ends with the run.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from moeverify.base.scratch import scratch_folder

# Set by whoever runs many cases: where the kept process listens, and its pid.
SOCKET, KEPT = "MOEVERIFY_RELOAD_SOCKET", "MOEVERIFY_RELOAD_PID"
_START_SECONDS = 120.0
# As it was before any subject ran: a subject may change the environment of its process.
_ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1"}

PROGRAM = """
import collections, dataclasses, inspect, json, os, random, socket, sys, traceback
import numpy
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

def floats(value):  # every floating-point tensor of an output, in order
    if isinstance(value, torch.Tensor):
        if value.is_complex():
            yield torch.view_as_real(value.resolve_conj())
        elif value.is_floating_point():
            yield value
    elif isinstance(value, (dict, collections.UserDict)):
        for part in value.values():
            yield from floats(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from floats(part)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from floats(getattr(value, field.name))

def load(folder, dtype, experts, attention, threads, device, auto_class=""):
    torch.set_num_threads(int(threads))
    config = json.load(open(folder + "/model/config.json"))
    if config["model_type"] == "synthetic_moe":
        import synthetic_models
    kind = getattr(transformers, (config.get("architectures") or [""])[0], AutoModelForCausalLM)
    more = {"experts_implementation": experts} if experts else {}
    if auto_class:  # code of the checkpoint's own, which the user lets run
        kind = getattr(transformers, auto_class)
        more["trust_remote_code"] = True
    if device != "cpu":
        more["device_map"] = device  # straight to where it belongs
    model, info = kind.from_pretrained(
        folder + "/model", dtype=getattr(torch, dtype), attn_implementation=attention, output_loading_info=True, **more)
    model.eval()
    inputs = {k: v.clone() for k, v in load_file(folder + "/inputs.safetensors", device=device).items()}
    if device == "cpu":  # loaded tensors lie anywhere in a file's buffer; kernels round by where memory is aligned
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    plain = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)  # a model that draws random numbers draws those of the saved one
    with torch.no_grad():
        found = list(floats(model(**inputs, **plain)))
    save_file({str(n): t.cpu().clone().contiguous() for n, t in enumerate(found)}, folder + "/outputs.safetensors")
    json.dump({k: sorted(map(str, v)) for k, v in info.items() if v}, open(folder + "/info.json", "w"))

def serve(path, owner):
    from transformers import PreTrainedModel  # what every load imports; lazily, so the import of transformers has not
    import transformers.models.auto.modeling_auto
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    server.settimeout(1.0)
    while True:
        try:
            connection, _ = server.accept()
        except TimeoutError:
            try:
                os.kill(owner, 0)
            except OSError:
                return
            continue
        connection.settimeout(None)
        request = json.loads(connection.makefile().readline())
        child = os.fork()
        if child == 0:
            os.dup2(os.open(request["stderr"], os.O_WRONLY | os.O_CREAT), 2)
            code = 0
            try:
                load(*request["arguments"])
            except BaseException:
                traceback.print_exc()
                code = 1
            sys.stderr.flush()
            os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        try:
            connection.sendall(b"%d\\n" % code)
        except OSError:
            pass
        connection.close()

if sys.argv[1] == "serve":
    serve(sys.argv[2], int(sys.argv[3]))
else:
    load(*sys.argv[2:])
"""


def load_afresh(arguments: Sequence[str]) -> tuple[int, str]:
    """Let a fresh process load what was saved: folder, dtype, experts and attention implementation, threads, device,
    and the class that loads a checkpoint with code of its own, else an empty text.

    Returns its exit status and its standard error.
    """
    if kept := kept_process():
        temporary = scratch_folder("fresh")
        with contextlib.suppress(OSError), temporary as folder, _connect(*kept) as connection:
            log = Path(folder, "stderr")
            request = {"arguments": list(arguments), "stderr": str(log)}
            connection.sendall(json.dumps(request).encode() + b"\n")
            code = int(connection.makefile().readline() or -1)
            return code, log.read_text("utf-8", "replace") if log.exists() else ""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "once", *arguments], capture_output=True, text=True, env=_ENVIRONMENT
    )
    return done.returncode, done.stderr


def kept_process() -> tuple[str, str | None] | None:
    """Socket and pid of the process that a run keeps for reloads, ``None`` if it keeps none."""
    place = os.environ.get(SOCKET)
    return (place, os.environ.get(KEPT)) if place else None


class Kept:
    """The process that loads models for this process and its children. ``folder`` holds its socket."""

    def __init__(self, folder: str) -> None:
        self._place = f"{folder}/reload.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> int:
        """Start the process unless it runs; return its pid."""
        if self._process is None or self._process.poll() is not None:
            Path(self._place).unlink(missing_ok=True)
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, "serve", self._place, str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_ENVIRONMENT,
                start_new_session=True,
            )
            os.environ[SOCKET], os.environ[KEPT] = self._place, str(self._process.pid)
        return self._process.pid

    def end(self) -> None:
        """Kill the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def _connect(place: str, pid: str | None) -> socket.socket:
    """A connection to the kept process, once it listens. Raises ``OSError`` if it does not."""
    connection = socket.socket(socket.AF_UNIX)
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and Path(place).parent.is_dir() and _running(pid):
        with contextlib.suppress(OSError):
            connection.connect(place)
            return connection
        time.sleep(0.05)
    connection.close()
    raise OSError("the process that loads models does not listen")


def _running(pid: str | None) -> bool:
    try:
        return bool(psutil.Process(int(pid or "")).status() != psutil.STATUS_ZOMBIE)
    except (ValueError, psutil.Error):
        return False
