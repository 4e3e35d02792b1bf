"""Throughput and memory of certification on a pair of folders made on the spot.

``python -m benchmarks.certify [GIB]`` writes a random Qwen3-MoE of about that size in bfloat16 and half of its experts
to a temporary folder, layer by layer, and certifies them with one thread: values are compared, no model is run.
``sha256sum`` of both folders is timed beside it. The pair is removed at the end.

``python -m benchmarks.certify prove [GIB]`` runs both models, ``--oracle full``, in a process that may have a fraction
of their size in memory of its own: the limit is set by ``RLIMIT_DATA`` before anything is loaded.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import torch
from safetensors.torch import save_file
from transformers import Qwen3MoeConfig

from moeverify.certification.certify import examine

LIMIT_GIB_PER_S, LIMIT_MEMORY_GIB, LIMIT_PROOF_GIB = 0.5, 1.5, 1.5
_HIDDEN, _WIDTH, _EXPERTS, _KEPT = 2048, 768, 64, 32


def make_pair(folder: Path, gib: float) -> tuple[Path, Path]:
    """Write base and pruned folder; together about ``gib``."""
    layer = 2 * (_EXPERTS + _KEPT) * 3 * _HIDDEN * _WIDTH
    layers = max(1, round(gib * 2**30 / layer))
    for name, count in (("base", _EXPERTS), ("pruned", _KEPT)):
        (folder / name).mkdir()
        config = Qwen3MoeConfig(
            hidden_size=_HIDDEN,
            moe_intermediate_size=_WIDTH,
            intermediate_size=_WIDTH,
            num_hidden_layers=layers,
            num_attention_heads=8,
            num_key_value_heads=2,
            head_dim=128,
            num_experts=count,
            num_experts_per_tok=8,
            vocab_size=4096,
            dtype="bfloat16",
            architectures=["Qwen3MoeForCausalLM"],
        )
        config.save_pretrained(folder / name)
    torch.manual_seed(0)
    _write(folder, 0, layers, {
        "model.embed_tokens.weight": _random(4096, _HIDDEN),
        "lm_head.weight": _random(4096, _HIDDEN),
        "model.norm.weight": _random(_HIDDEN),
    }, {})  # fmt: skip
    for number in range(layers):
        prefix, kept = f"model.layers.{number}.", torch.randperm(_EXPERTS)[:_KEPT].sort().values
        alike = {
            "input_layernorm.weight": _random(_HIDDEN),
            "post_attention_layernorm.weight": _random(_HIDDEN),
            "self_attn.q_proj.weight": _random(1024, _HIDDEN),
            "self_attn.k_proj.weight": _random(256, _HIDDEN),
            "self_attn.v_proj.weight": _random(256, _HIDDEN),
            "self_attn.o_proj.weight": _random(_HIDDEN, 1024),
            "self_attn.q_norm.weight": _random(128),
            "self_attn.k_norm.weight": _random(128),
        }
        router = _random(_EXPERTS, _HIDDEN)
        mine = {f"mlp.experts.{e}.{p}_proj.weight": _random(*((_HIDDEN, _WIDTH) if p == "down" else (_WIDTH, _HIDDEN)))
                for e in range(_EXPERTS) for p in ("gate", "up", "down")}  # fmt: skip
        theirs = {f"mlp.experts.{new}.{p}_proj.weight": mine[f"mlp.experts.{int(old)}.{p}_proj.weight"]
                  for new, old in enumerate(kept) for p in ("gate", "up", "down")}  # fmt: skip
        before = {**alike, **mine, "mlp.gate.weight": router}
        after = {**alike, **theirs, "mlp.gate.weight": router[kept].clone()}
        _write(folder, number + 1, layers, *({prefix + n: t for n, t in x.items()} for x in (before, after)))
    return folder / "base", folder / "pruned"


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(shape).mul_(0.02).bfloat16()


def _write(folder: Path, number: int, layers: int, before: dict, after: dict) -> None:
    """Write one shard of each folder, and extend its index."""
    for name, tensors in (("base", before), ("pruned", after or before)):
        shard = f"model-{number + 1:05d}-of-{layers + 1:05d}.safetensors"
        save_file(tensors, folder / name / shard, metadata={"format": "pt"})
        file = folder / name / "model.safetensors.index.json"
        index = json.loads(file.read_text()) if file.exists() else {"metadata": {}, "weight_map": {}}
        index["weight_map"] |= dict.fromkeys(tensors, shard)
        file.write_text(json.dumps(index))


class Peak:
    """The largest resident memory of this process while it runs, sampled."""

    def __enter__(self) -> Peak:
        self.begin, self.peak, self.running = psutil.Process().memory_info().rss, 0, True
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while self.running:
            self.peak = max(self.peak, psutil.Process().memory_info().rss)
            time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        self.running = False
        self.thread.join()


def _warm(files: list[Path]) -> None:
    for file in files:
        with file.open("rb") as stream:
            while stream.read(1 << 24):
                pass


def _sum_speed(files: list[Path], size: float) -> float:
    """GiB that ``sha256sum`` takes in a second of its processor time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run(["sha256sum", *map(str, files)], check=True, stdout=subprocess.DEVNULL)
    return size / (resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)


def main() -> None:
    """Print one line a measurement; exit 1 if a limit is missed. Seconds are those of this process's one core."""
    gib = float(sys.argv[1]) if len(sys.argv) > 1 else 8.0
    with tempfile.TemporaryDirectory(prefix="moeverify-benchmark-") as place:
        subprocess.run([sys.executable, "-m", "benchmarks.certify", "make", place, str(gib)], check=True)
        base, pruned = Path(place, "base"), Path(place, "pruned")
        files = sorted([*base.glob("*.safetensors"), *pruned.glob("*.safetensors")])
        size = sum(file.stat().st_size for file in files) / 2**30
        _warm(files)
        sums = _sum_speed(files, size)
        _warm(files)
        with Peak() as memory:
            begin, wall = time.process_time(), time.perf_counter()
            found = examine(base, pruned, oracle="none")
            seconds, wall = time.process_time() - begin, time.perf_counter() - wall
        speed = size / seconds
        print(f"pair: {size:.2f} GiB in {len(files)} files; {found.headline}")
        print(f"certify: {seconds:.1f} s of one core, {wall:.1f} s with waiting for the process that loads")
        print(f"throughput: {speed:.2f} GiB/s (at least {LIMIT_GIB_PER_S}); sha256sum {sums:.2f} GiB/s")
        print(f"memory: {memory.peak / 2**30:.2f} GiB, {memory.begin / 2**30:.2f} before (at most {LIMIT_MEMORY_GIB})")
        for verdict in found.verdicts:
            print(f"  {verdict.check}: {verdict.status.value}, {verdict.seconds:.1f} s: {verdict.message[:100]}")
    missed = speed < LIMIT_GIB_PER_S or speed < sums / 2 or memory.peak > LIMIT_MEMORY_GIB * 2**30
    sys.exit(int(missed or found.headline != "pure selection"))


def prove(gib: float) -> None:
    """Print what the numeric proof of a pair found under a limit of memory; exit 1 if it is no pass."""
    with tempfile.TemporaryDirectory(prefix="moeverify-benchmark-") as place:
        subprocess.run([sys.executable, "-m", "benchmarks.certify", "make", place, str(gib)], check=True)
        files = [*Path(place).glob("*/*.safetensors")]
        size = sum(file.stat().st_size for file in files) / 2**30
        limit = LIMIT_PROOF_GIB
        print(f"pair: {size:.2f} GiB, in float64 {4 * size:.2f} GiB; limit of memory {limit} GiB", flush=True)
        command = [sys.executable, "-m", "benchmarks.certify", "limited", place, str(limit)]
        sys.exit(subprocess.run(command).returncode)


def limited(folder: Path, gib: float) -> None:
    """Certify with ``--oracle full`` in at most ``gib`` of memory that is no file's."""
    limit = int(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    with Peak() as memory:
        begin = time.process_time()
        found = examine(folder / "base", folder / "pruned", oracle="full")
        seconds = time.process_time() - begin
    print(f"resident at the peak, mapped files included: {memory.peak / 2**30:.2f} GiB; {seconds:.0f} s of one core")
    for verdict in found.verdicts:
        print(f"  {verdict.check}: {verdict.status.value}, {verdict.seconds:.1f} s: {verdict.message[:100]}")
    proof = next(v for v in found.verdicts if v.check == "masked-equivalence")
    sys.exit(int(proof.status.value != "pass"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["make"]:
        make_pair(Path(sys.argv[2]), float(sys.argv[3]))
    elif sys.argv[1:2] == ["prove"]:
        prove(float(sys.argv[2]) if len(sys.argv) > 2 else 8.0)
    elif sys.argv[1:2] == ["limited"]:
        limited(Path(sys.argv[2]), float(sys.argv[3]))
    else:
        main()
