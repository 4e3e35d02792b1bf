"""Pruning a folder that does not fit into memory: time against a naive script, memory, and a run that is killed.

``python -m benchmarks.streaming`` makes a random Qwen3-MoE of about 6 GB in bfloat16, one file a layer, in a temporary
folder, and prunes half of the channels of every routed expert by magnitude, each time in a process of its own:

* by a naive script (``naive`` below) that loads one file after the other, scores, cuts and saves;
* by ``moeverify prune`` under an address space of 4 GiB (``ulimit -v``);
* by the same command, killed five times on the way, whose bytes must be those of the run before;
* whole experts by ``reap`` on calibration data, layer by layer, with no limit but the memory that is seen.

It writes ``reports/baselines/streaming.json`` and the table ``streaming.md`` beside it. With ``--place FOLDER`` the
models stay in that folder, and a benchmark that was cut goes on with the first run that it has not measured.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3MoeConfig

from moeverify.base.files import write_text
from moeverify.base.versions import versions

GIB = 1 << 30
LIMIT = 4 * GIB
# Against the naive script, and above the largest layer in float32.
MOST_TIMES, MOST_ABOVE_LAYER = 2.0, 1.5 * GIB
# Killed at the first line of progress, of which one comes every 2 seconds, after so many seconds of writing. Each run
# hashes all of the base, which takes longer; what is written is noted every second, so that each run goes on.
KILLS, KILL_AFTER = 5, 1.5
_HIDDEN, _WIDTH, _EXPERTS = 2048, 768, 128
_ASKED = ("--pruning-ratio", "0", "--ratio", "routed_experts=0.5")
_REAP = """
import sys, torch, moeverify as mv
from moeverify.pruning.checkpoint.checkpoint import prune_checkpoint
ids = torch.randint(0, 4096, (8, 64), generator=torch.Generator().manual_seed(0))
prune_checkpoint(sys.argv[1], sys.argv[2], ratios={"experts": 0.5}, calibration=mv.Calibration(ids))
"""


@dataclass(frozen=True)
class Measured:
    """One run: wall-clock and processor seconds, and the most resident memory of its process in bytes."""

    name: str
    seconds: float
    cpu_seconds: float
    memory: int
    kills: int = 0


def make_base(folder: Path, layers: int) -> int:
    """Write the model, and return the size of a layer in float32."""
    folder.mkdir()
    Qwen3MoeConfig(
        hidden_size=_HIDDEN, moe_intermediate_size=_WIDTH, intermediate_size=_WIDTH, num_hidden_layers=layers,
        num_attention_heads=16, num_key_value_heads=4, head_dim=128, num_experts=_EXPERTS, num_experts_per_tok=8,
        vocab_size=4096, dtype="bfloat16", architectures=["Qwen3MoeForCausalLM"],
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    ends = {
        "model.embed_tokens.weight": (4096, _HIDDEN),
        "lm_head.weight": (4096, _HIDDEN),
        "model.norm.weight": (_HIDDEN,),
    }
    weights: dict[str, str] = {}
    size = 0
    for number in range(layers + 1):
        shapes = _layer(number) if number < layers else ends
        file = f"model-{number + 1:05}-of-{layers + 1:05}.safetensors"
        tensors = {name: _values(name, shape) for name, shape in shapes.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weights |= dict.fromkeys(shapes, file)
        size = max(size, sum(t.numel() * 4 for t in tensors.values()))
    index = {"metadata": {}, "weight_map": weights}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return size


@lru_cache(maxsize=8)
def _random(kind: str, shape: tuple[int, ...]) -> torch.Tensor:
    return (torch.randn(shape) / _HIDDEN**0.5).bfloat16()


def _values(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Random numbers; experts have the same ones, each in an order and a size of its own."""
    match = re.search(r"layers\.(\d+)\.mlp\.experts\.(\d+)\.(\w+)", name)
    if match is None:
        return _random(name, shape)
    layer, expert = int(match[1]), int(match[2])
    return _random(match[3], shape).roll(7 * expert + layer, 0) * (1 + expert / 256 + layer / 16)


def _layer(number: int) -> dict[str, tuple[int, ...]]:
    prefix = f"model.layers.{number}."
    shapes: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (_HIDDEN,), "post_attention_layernorm.weight": (_HIDDEN,),
        "self_attn.q_proj.weight": (2048, _HIDDEN), "self_attn.k_proj.weight": (512, _HIDDEN),
        "self_attn.v_proj.weight": (512, _HIDDEN), "self_attn.o_proj.weight": (_HIDDEN, 2048),
        "self_attn.q_norm.weight": (128,), "self_attn.k_norm.weight": (128,), "mlp.gate.weight": (_EXPERTS, _HIDDEN),
    }  # fmt: skip
    for expert in range(_EXPERTS):
        for leaf, shape in (("gate", (_WIDTH, _HIDDEN)), ("up", (_WIDTH, _HIDDEN)), ("down", (_HIDDEN, _WIDTH))):
            shapes[f"mlp.experts.{expert}.{leaf}_proj.weight"] = shape
    return {prefix + name: shape for name, shape in shapes.items()}


def naive(base: Path, out: Path) -> None:
    """The script that anybody would write: file by file, half of the channels of every expert by magnitude."""
    out.mkdir()
    for file in sorted(base.glob("*.safetensors")):
        tensors = load_file(file)
        for name in [n for n in tensors if n.endswith("gate_proj.weight")]:
            gate, up, down = (name.replace("gate_proj", leaf) for leaf in ("gate_proj", "up_proj", "down_proj"))
            score = sum(t.float().square().sum(1) for t in (tensors[gate], tensors[up], tensors[down].T))
            kept = score.topk(len(score) // 2).indices.sort().values  # type: ignore[union-attr,arg-type]
            tensors[gate], tensors[up] = tensors[gate][kept], tensors[up][kept]
            tensors[down] = tensors[down][:, kept].contiguous()
        save_file(tensors, out / file.name, metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    config["moe_intermediate_size"] //= 2
    (out / "config.json").write_text(json.dumps(config))


def measured(name: str, words: list[str], *, limit: int | None = None, kill_after: float | None = None) -> Measured:
    """Run a command; ``limit`` bounds its address space, ``kill_after`` the seconds that it writes before it is killed.

    Raises ``RuntimeError`` if it fails otherwise.
    """

    def bounded() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    begin = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(words, preexec_fn=bounded, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    lines, deadline = [], None
    for line in process.stderr:
        lines.append(line)
        if kill_after is not None and deadline is None and "  write" in line:
            deadline = time.perf_counter() + kill_after
        if deadline is not None and time.perf_counter() > deadline:
            process.send_signal(signal.SIGKILL)
            break
    _, status, used = os.wait4(process.pid, 0)
    killed = os.WIFSIGNALED(status) and deadline is not None
    if status and not killed:
        raise RuntimeError(f"{name} failed: {''.join(lines)[-2000:]}")
    cpu = used.ru_utime + used.ru_stime
    return Measured(name, time.perf_counter() - begin, cpu, used.ru_maxrss * 1024, int(killed))


def digests(folder: Path) -> dict[str, str]:
    """A hash of every file."""
    result = {}
    for file in sorted(folder.iterdir()):
        with file.open("rb") as stream:
            result[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return result


class Place:
    """A folder for the models, with what was measured so far in ``measured.json``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._file = root / "measured.json"
        self.known: dict[str, Any] = json.loads(self._file.read_text()) if self._file.exists() else {}

    def once(self, name: str, measure: Callable[[], Any]) -> Any:
        """What ``measure`` gave, now or in an earlier benchmark in this folder."""
        if name not in self.known:
            self.known[name] = measure()
            write_text(self._file, json.dumps(self.known))
        return self.known[name]

    def ran(self, name: str, words: list[str], made: Path, **bounds: Any) -> Measured:
        """The measurement of a run that makes the folder ``made``; what an earlier one left half made is removed."""

        def afresh() -> dict[str, Any]:
            if "kill_after" not in bounds and made.exists():
                shutil.rmtree(made)
            return asdict(measured(name, words, **bounds))

        return Measured(**self.once(name, afresh))


def run(layers: int, root: Path, *, calibrated: bool = True) -> dict[str, Any]:
    """All measurements, with the models in the folder ``root``; without ``calibrated`` those of magnitude alone."""
    base, naive_out, out, killed, reap = (root / name for name in ("base", "naive", "out", "killed", "reap"))
    place = Place(root)

    def make() -> int:
        shutil.rmtree(base, ignore_errors=True)
        # A process starts with its parent's peak of resident memory, so this one must stay small.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(make_base, base, layers).result()

    layer = place.once("largest_layer_float32", make)
    me = [sys.executable, "-m", "benchmarks.streaming", "--naive", str(base), str(naive_out)]
    prune = [sys.executable, "-m", "moeverify", "prune", str(base), *_ASKED, "--save-model"]
    rows = [place.ran("naive script", me, naive_out)]
    rows.append(place.ran("moeverify prune, 4 GiB of address space", [*prune, str(out)], out, limit=LIMIT))
    ends = [
        place.ran(f"killed ({n + 1})", [*prune, str(killed)], killed, limit=LIMIT, kill_after=KILL_AFTER)
        for n in range(KILLS)
    ]
    after = "the same after five kills"
    assert after in place.known or not killed.exists(), "a killed run left a folder that looks whole"
    rows.append(place.ran(after, [*prune, str(killed)], killed, limit=LIMIT))
    same = place.once("same_bytes_after_kills", lambda: digests(out) == digests(killed))
    if calibrated:
        rows.append(place.ran("whole experts by reap", [sys.executable, "-c", _REAP, str(base), str(reap)], reap))
    return {
        "versions": versions(),
        "bytes": sum(file.stat().st_size for file in base.glob("*.safetensors")),
        "layers": layers,
        "largest_layer_float32": layer,
        "kills": sum(end.kills for end in ends),
        "same_bytes_after_kills": same,
        "killed": [asdict(end) for end in ends],
        "runs": [asdict(row) for row in rows],
    }


def table(data: dict) -> str:  # type: ignore[type-arg]
    """The table of the report."""
    first = data["runs"][0]
    lines = [
        "# Pruning a folder without holding the model",
        "",
        f"A random Qwen3-MoE of {data['bytes'] / GIB:.2f} GiB in bfloat16, with {data['layers']} layers",
        f"of {_EXPERTS} experts; a layer is {data['largest_layer_float32'] / GIB:.2f} GiB in float32.",
        "Half of the channels of every routed expert go by magnitude, one thread.",
        "Made by `python -m benchmarks.streaming`.",
        "",
        "| run | seconds | processor seconds | against the naive script | peak of resident memory (GiB) |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in data["runs"]:
        times = row["cpu_seconds"] / first["cpu_seconds"]
        against = f"{times:.1f}" if row["name"].startswith("moeverify") else ""
        numbers = f"{row['seconds']:.0f} | {row['cpu_seconds']:.0f} | {against} | {row['memory'] / GIB:.2f}"
        lines.append(f"| {row['name']} | {numbers} |")
    same = "the same bytes" if data["same_bytes_after_kills"] else "OTHER BYTES"
    lines += ["", f"Killed {data['kills']} times while it wrote, the command gave {same} in the end."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run, or be the naive script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("reports/baselines"))
    parser.add_argument("--naive", nargs=2, type=Path, metavar=("BASE", "OUT"))
    parser.add_argument("--place", type=Path, metavar="FOLDER", help="keep the models here, and go on there later")
    parser.add_argument("--no-reap", action="store_true", help="leave out the run on calibration data")
    options = parser.parse_args()
    if options.naive:
        naive(*options.naive)
        return
    with contextlib.ExitStack() as stack:
        if options.place is None:
            options.place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streaming-")))
        options.place.mkdir(parents=True, exist_ok=True)
        data = run(options.layers, options.place, calibrated=not options.no_reap)
    write_text(options.out / "streaming.json", json.dumps(data, indent=1) + "\n")
    write_text(options.out / "streaming.md", table(data))
    print(table(data))


if __name__ == "__main__":
    main()
