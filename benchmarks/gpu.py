"""All that has to be measured on a GPU, by one command in at most eight minutes: ``python -m benchmarks.gpu``.

Each part is a process group of its own with a limit in seconds; one that fails or hangs takes none of the others along.
``--out FOLDER`` (``reports/gpu``) receives ``parts/PART.json`` as soon as a part is over: its commands, exit code,
seconds and the end of its output, beside what the part itself writes. Exit code 1 if any part failed. ``--only PART``
runs some; ``--device cpu`` runs all at reduced sizes anywhere, with ``--patience`` times the limits.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from moeverify.base.files import write_text
from moeverify.base.versions import versions

ROOT = Path(__file__).parents[1]
TYPES = ("mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss", "glm4_moe", "qwen3_next")
REDUCED = (
    *("--layers", "2", "--hidden", "64", "--experts", "16", "--expert-channels", "32", "--vocabulary", "128"),
    *("--heads", "4", "--head-dim", "16", "--rows", "8", "--length", "64", "--repeats", "1", "--dtype", "float32"),
)
MOST_SECONDS = 480
_END_OF_OUTPUT = 4000


@dataclass(frozen=True)
class Part:
    """Commands that run one after the other until one fails, and the seconds that they may take together."""

    name: str
    seconds: int
    commands: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Outcome:
    """What became of a part. ``exit_code`` is that of the last command, ``None`` if the limit ended it."""

    name: str
    commands: tuple[str, ...]
    exit_code: int | None
    seconds: float
    limit: float
    output: str


def parts(device: str, out: Path, place: Path) -> list[Part]:
    """All parts for a device; ``out`` receives their reports, ``place`` folders of models."""
    small = device == "cpu"
    dtype = "float32" if small else "bfloat16"
    types = [f"zoo:{name}" for name in (TYPES[:1] if small else TYPES)]
    size = REDUCED if small else ()
    full = ["-m", "benchmarks.full_model", "--device", device, *size]
    tests = ["tests/gpu", "-q", "-k", "devices_that_are_not_there"] if small else ["-m", "gpu", "-q", "tests/gpu"]
    verify = ["-m", "moeverify", "verify", *types, "--device", device, "--dtype", dtype, "--report", f"{out}/verify"]
    pair = ["-m", "benchmarks.certify", "make", str(place), "0.05" if small else "2"]
    proof = ["-m", "moeverify", "certify", f"{place}/base", f"{place}/pruned", "--oracle", "full", "--device", device]
    return [
        _part("tests", 90, ["-m", "pytest", "-p", "no:cacheprovider", *tests]),
        _part("verify", 100, verify),
        _part("full-model", 150, [*full, "--out", f"{out}/full-model.json"]),
        _part(
            "experts", 80, [*full, "--expert-ratio", "0.5", "--reload", "no", "--out", f"{out}/full-model-reap.json"]
        ),
        _part("certify", 60, pair, [*proof, "--report", f"{out}/certify"]),
    ]


def _part(name: str, seconds: int, *commands: Sequence[str]) -> Part:
    return Part(name, seconds, tuple((sys.executable, *command) for command in commands))


def carry_out(part: Part, patience: float = 1.0) -> Outcome:
    """Run a part; on its limit its whole process group is killed."""
    begin, limit = time.monotonic(), part.seconds * patience
    code: int | None = 0
    with tempfile.TemporaryFile() as output:
        for command in part.commands:
            code = _run(command, output, limit - (time.monotonic() - begin))
            if code != 0:
                break
        output.seek(max(0, output.seek(0, os.SEEK_END) - _END_OF_OUTPUT))
        text = output.read().decode(errors="replace")
    typed = tuple(" ".join(("python", *command[1:])) for command in part.commands)
    return Outcome(part.name, typed, code, round(time.monotonic() - begin, 1), limit, text)


def _run(command: Sequence[str], output: object, seconds: float) -> int | None:
    """The exit code, ``None`` if the seconds were not enough."""
    with subprocess.Popen(
        command,
        stdout=output,  # type: ignore[arg-type]
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        start_new_session=True,
    ) as process:
        try:
            return process.wait(max(seconds, 0))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None


def main(words: Sequence[str] | None = None) -> int:
    """Run the parts and write what became of each; 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("reports/gpu"), help="folder of the results")
    parser.add_argument("--only", nargs="+", metavar="PART", help="parts to run")
    parser.add_argument("--patience", type=float, default=1.0, help="factor of all limits")
    options = parser.parse_args(words)
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if out.is_relative_to(ROOT):  # results name no path of this machine
        out = out.relative_to(ROOT)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="moeverify-gpu-") as place:
        chosen = parts(options.device, out, Path(place))
        if options.only and (unknown := set(options.only) - {part.name for part in chosen}):
            parser.error(f"no part is called {', '.join(sorted(unknown))}: {', '.join(part.name for part in chosen)}")
        for part in chosen:
            if options.only and part.name not in options.only:
                continue
            outcome = carry_out(part, options.patience)
            failed += outcome.exit_code != 0
            document = {"device": options.device, "versions": dict(versions()), **asdict(outcome)}
            text = json.dumps(document, indent=1).replace(place, "PLACE").replace(f"{ROOT}/", "")
            write_text(ROOT / out / "parts" / f"{part.name}.json", text + "\n")
            how = "too slow" if outcome.exit_code is None else f"exit code {outcome.exit_code}"
            print(f"{part.name:12} {how:12} {outcome.seconds:6.1f} s of {outcome.limit:g}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
