"""The loop of a worker: one child a folder, so that an engine that crashes refuses one folder and not the rest.

Runs in the environment of an engine, without moeverify.
"""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Serve = Callable[[str, Mapping[str, Any], dict[str, Any]], list[Any]]
# llama.cpp's time and level of a message; not every message ends its line.
_STAMP = re.compile(r"\d+\.\d\d\.\d{3}\.\d{3} [A-Z] ")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def main(serve: Serve, version: str) -> None:
    """Answer the request of the command line.

    ``serve(folder, request, facts)`` returns the distributions of a folder, and may add to ``facts``.
    """
    request = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    gc.collect()
    gc.freeze()  # engines collect several times while they start: for a small model, that was most of its time
    with open(sys.argv[2], "a", encoding="utf-8") as answers:
        for number, folder in enumerate(request["folders"]):
            answer = _in_child(serve, folder, request, Path(f"{sys.argv[2]}.{number}"))
            answers.write(json.dumps({"folder": folder, "version": version, **answer}) + "\n")
            answers.flush()


def _in_child(serve: Serve, folder: str, request: Mapping[str, Any], place: Path) -> dict[str, Any]:
    log = place.with_suffix(".log")
    child = os.fork()
    if child == 0:
        code = 0
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        facts: dict[str, Any] = {}
        try:
            answer: dict[str, Any] = {"distributions": serve(folder, request, facts)}
        except BaseException as error:
            traceback.print_exc()
            answer = {"refused": _reason(error)}
        try:
            place.write_text(json.dumps({**answer, "facts": facts}), "utf-8")
        except BaseException:
            code = 1
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    log_text = _COLOURS.sub("", log.read_text("utf-8", "replace")) if log.exists() else ""
    if place.exists():
        answer = json.loads(place.read_text("utf-8"))
        if "refused" in answer:
            answer["refused"] = " ".join([answer["refused"], _engine_error(log_text)]).strip()
            answer.setdefault("facts", {})["log"] = log_text[-4000:]
        return answer
    if code == -signal.SIGKILL:
        sys.exit(f"killed while it served {folder}: out of memory?")
    how = signal.Signals(-code).name if code < 0 else f"status {code}"
    return {
        "refused": f"crashed ({how}): {_engine_error(log_text) or _last(log_text)}",
        "facts": {"log": log_text[-4000:]},
    }


def _reason(error: BaseException) -> str:
    """The innermost reason: what others wrap and call by a general name has a cause."""
    lines = [line.strip() for line in _COLOURS.sub("", str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:250]}"


def _engine_error(log: str) -> str:
    """Error that an engine in C++ printed before it gave up."""
    pieces = [piece.strip() for line in log.splitlines() for piece in _STAMP.split(line)]
    wrong = [p for p in pieces if re.search(r"error loading model|GGML_ASSERT|missing tensor|wrong shape", p)]
    return re.sub(r"^.*?(?=/\S+:\d+: GGML_ASSERT)", "", wrong[0])[:250] if wrong else ""


def _last(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1][:250] if lines else "no message"
