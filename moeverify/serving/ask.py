"""Ask an engine: folders and prompts in, the distribution of the next token out.

The protocol, for engines of other packages. The worker script is run by the engine's Python with two paths::

    python WORKER request.json answers.jsonl

The request holds ``folders``, ``prompts`` (lists of token ids), ``top`` (how many tokens of each distribution are
wanted), ``dtype`` and ``threads``. The worker appends one JSON object a folder, in order, each as soon as it is known::

    {"folder": "...", "version": "1.0", "distributions": [[[token, log_probability], ...], ...], "facts": {}}
    {"folder": "...", "version": "1.0", "refused": "one line in the engine's own words"}
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema

from moeverify.base.scratch import scratch_folder
from moeverify.base.text import printable
from moeverify.errors import EngineError
from moeverify.serving.answers import Answer, Question
from moeverify.serving.registry import Engine

MOST_BYTES = 256 << 20
_PAIR = {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "number"}], "minItems": 2, "maxItems": 2}
_SCHEMA = {
    "type": "object",
    "required": ["folder"],
    "properties": {
        "folder": {"type": "string"},
        "version": {"type": "string"},
        "refused": {"type": "string"},
        "distributions": {"type": "array", "items": {"type": "array", "items": _PAIR}},
        "facts": {"type": "object"},
    },
}


def ask(engine: Engine, python: Path, question: Question, seconds: float) -> tuple[Answer, ...]:
    """One answer a folder, in order. Raises ``EngineError`` if the engine's process cannot be run."""
    with scratch_folder("engine") as place:
        request, answers, log = place / "request.json", place / "answers.jsonl", place / "log"
        request.write_text(json.dumps(_request(question)), "utf-8")
        code = _run([str(python), str(engine.worker), str(request), str(answers)], engine, place, log, seconds)
        answered = _read(answers, question)
        log_text = log.read_text("utf-8", "replace") if log.exists() else ""
    if code is None:
        rest = Answer(Path(), refused=f"no answer within {seconds:g} s", undecided=True)
    elif code == -signal.SIGKILL:
        rest = Answer(Path(), refused="its process was killed: out of memory?", undecided=True)
    else:
        rest = Answer(Path(), refused=f"its process ended with status {code}: {last_line(log_text)}", undecided=True)
    if not answered and code not in (0, None):
        raise EngineError(
            f"{engine.name} cannot be run: {last_line(log_text)}; try `moeverify engines install {engine.name}`"
        )
    missing = question.folders[len(answered) :]
    return (*answered, *(Answer(folder, (), rest.refused, True, facts={"log": log_text[-2000:]}) for folder in missing))


def _request(question: Question) -> dict[str, Any]:
    return {
        "folders": [str(folder) for folder in question.folders],
        "prompts": [list(prompt) for prompt in question.prompts],
        "top": question.top,
        "dtype": question.dtype,
        "threads": question.threads,
    }


def _run(command: list[str], engine: Engine, place: Path, log: Path, seconds: float) -> int | None:
    """Exit status; ``None`` after ``seconds``, when the process and what it started were ended."""
    ours = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONSTARTUP")
    environment = {key: value for key, value in os.environ.items() if key not in ours}
    environment |= {"HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(place), **engine.environment}
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=place,
                                       env=environment, start_new_session=True)  # fmt: skip
    except OSError as error:
        raise EngineError(
            f"{engine.name} cannot be run: {error.strerror}; try `moeverify engines install {engine.name}`"
        ) from error
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _read(path: Path, question: Question) -> list[Answer]:
    """The answers that a worker wrote. Raises ``EngineError`` for what follows no protocol."""
    if not path.exists():
        return []
    if path.stat().st_size > MOST_BYTES:
        raise EngineError(f"the engine's answers take {path.stat().st_size >> 20} MiB; ask for fewer tokens")
    result: list[Answer] = []
    for line in path.read_text("utf-8", "replace").split("\n")[:-1]:
        try:
            data = json.loads(line)
            jsonschema.validate(data, _SCHEMA)
        except (ValueError, jsonschema.ValidationError) as error:
            raise EngineError(f"the engine's worker wrote what is no answer: {printable(error)[:200]}") from error
        number = len(result)
        if number >= len(question.folders) or data["folder"] != str(question.folders[number]):
            raise EngineError(f"the engine's worker answered for a folder that was not asked for: {data['folder']}")
        result.append(_answer(data, question))
    return result


def _answer(data: Mapping[str, Any], question: Question) -> Answer:
    folder = Path(data["folder"])
    version, facts = data.get("version", ""), data.get("facts", {})
    if "refused" in data:
        return Answer(folder, (), one_line(data["refused"]) or "it gives no reason", False, version, facts)
    distributions = tuple({int(token): float(value) for token, value in row} for row in data.get("distributions", ()))
    if len(distributions) != len(question.prompts) or not all(distributions):
        raise EngineError(f"the engine's worker answered {len(distributions)} of {len(question.prompts)} prompts")
    return Answer(folder, distributions, version=version, facts=facts)


def last_line(text: str) -> str:
    """The last line that is not empty."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return one_line(lines[-1]) if lines else "no message"


def one_line(text: str) -> str:
    """Text of an engine in one line of at most 300 characters."""
    return " ".join(printable(text).split())[:300]
