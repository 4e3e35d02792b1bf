"""``loads-whole``"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from moeverify.base.memory import is_out_of_memory
from moeverify.base.scratch import scratch_folder
from moeverify.certification.evidence import Evidence
from moeverify.certification.oracle.running import WHOLE_BYTES
from moeverify.certification.relations.registry import inconclusive, more, relation
from moeverify.certification.relations.same_in_base import in_pruned
from moeverify.checks.evidence.fresh_process import load_afresh
from moeverify.checks.registry import Finding, failed, passed
from moeverify.models.checkpoints import CODE_OF_ITS_OWN

_WORDS = {
    "missing_keys": "is missing in the files: transformers fills it with random or zero values",
    "unexpected_keys": "is dropped on loading",
    "mismatched_keys": "has another shape than the model",
    "error_msgs": "",
}
# Where transformers looks for the packages and devices that a quantised format needs, before it reads the folder.
_REQUIREMENTS = "in validate_environment"
_NOT_HERE = "this machine lacks what loading the folder needs"
# A large model is loaded without its values: names and shapes are compared by transformers all the same.
_WITHOUT_VALUES = """
import json, sys, transformers
folder = sys.argv[1]
config = transformers.AutoConfig.from_pretrained(folder)
kind = getattr(transformers, (config.architectures or [""])[0] or "", transformers.AutoModelForCausalLM)
_, info = kind.from_pretrained(folder, device_map="meta", output_loading_info=True)
print(json.dumps({k: sorted(map(str, v)) for k, v in info.items() if v}))
"""


@relation("loads-whole")
def loads_whole(evidence: Evidence) -> Finding:
    """A fresh process of plain transformers loads the folder: no key missing, unexpected or re-initialised."""
    if evidence.brings_code:
        return inconclusive(f"{CODE_OF_ITS_OWN}: whether it loads with that code cannot be seen")
    result, error = loading_report(evidence.pruned_folder, evidence.inventory.nbytes)
    if result is None and is_out_of_memory(error):
        return inconclusive(f"memory ran out while transformers loaded it: {error}")
    if result is None and error.startswith(_NOT_HERE):
        return inconclusive(f"{error}; install what is missing, or certify on a machine that has it")
    if result is None:
        _, theirs = loading_report(evidence.base_folder, evidence.base_inventory.nbytes)
        if theirs == error:
            return inconclusive(f"transformers loads neither it nor the base: {error}")
        return failed(f"transformers does not load it: {error}")
    if result:
        base, _ = loading_report(evidence.base_folder, evidence.base_inventory.nbytes)
        result = {kind: _own(evidence, kind, keys, (base or {}).get(kind, [])) for kind, keys in result.items()}
    lines = [f"{key} {_WORDS.get(kind, kind)}".strip() for kind, keys in result.items() for key in keys]
    if lines:
        return failed(more(lines), **{kind: keys[:200] for kind, keys in result.items()})
    return passed("a fresh process of transformers loads it without a missing, unexpected or re-initialised key")


def _own(evidence: Evidence, kind: str, keys: list[str], theirs: list[str]) -> list[str]:
    """Keys that the base does not have as well, under the numbers of the layers that stayed."""
    unloaded = evidence.base.naming.ignored if kind == "unexpected_keys" else ()
    known = in_pruned(evidence, (*theirs, *unloaded))
    return [key for key in keys if key not in known]


def loading_report(folder: Path, nbytes: int) -> tuple[Mapping[str, list[str]] | None, str]:
    """Report of transformers on loading a folder; ``None`` and the error if it fails."""
    if nbytes > WHOLE_BYTES:
        return _without_values(folder)
    report, error = _with_values(folder)
    return _without_values(folder) if report is None and is_out_of_memory(error) else (report, error)


def _with_values(folder: Path) -> tuple[Mapping[str, list[str]] | None, str]:
    with scratch_folder("load") as place:
        os.symlink(folder.resolve(), Path(place, "model"))
        save_file({"input_ids": torch.zeros(1, 8, dtype=torch.long)}, Path(place, "inputs.safetensors"))
        code, log = load_afresh([str(place), "float32", "", "eager", "1", "cpu"])
        report = Path(place, "info.json")
        if code == 0 and report.is_file():
            return json.loads(report.read_text("utf-8")), ""
        return None, _ended(code, log)


def _without_values(folder: Path) -> tuple[Mapping[str, list[str]] | None, str]:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_VALUES, str(folder.resolve())],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    if done.returncode:
        return None, _ended(done.returncode, done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1]), ""


def _ended(code: int, log: str) -> str:
    """Description of a process that ended without loading the folder."""
    error = last_error(log)
    if _REQUIREMENTS in log or error.startswith(("ImportError", "ModuleNotFoundError")):
        return f"{_NOT_HERE}: {error}"
    return f"out of memory: {error}" if is_out_of_memory(log, code) else error


def last_error(text: str) -> str:
    """The line of a traceback that names the error; with what transformers' table names, if there is one."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    lines = [" ".join(line.split()) for line in plain.splitlines() if line.strip()]
    error = next((line for line in reversed(lines) if re.match(r"[\w.]*(Error|Exception)\b", line)), "")
    named = next((line for line in lines if "| MISMATCH" in line or "| CONVERSION" in line or "| MISSING" in line), "")
    return f"{error[:240]} {named[:160]}".strip() or "the process ended without a word"
