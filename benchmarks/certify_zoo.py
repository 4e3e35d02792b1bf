"""Folders that our own pruner writes, certified: every MoE type of transformers, every kind of removal.

``python -m benchmarks.certify_zoo`` saves each type of the zoo, prunes it, saves it again and runs ``certify`` on the
two folders, models included. It writes ``reports/baselines/certify-zoo.json`` after each pair and the table
``certify-zoo.md`` beside it. ``--only TYPE ...`` runs some again; what is there already is kept with ``--resume``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from moeverify.base.files import write_text
from moeverify.base.versions import versions
from moeverify.certification.certify import examine
from moeverify.checks.evidence.fresh_process import Kept
from moeverify.errors import MoEVerifyError
from moeverify.models.checkpoints import quiet_transformers, token_inputs
from moeverify.models.zoo import build_zoo, zoo_types
from moeverify.pruning.pruner import MoEPruner
from moeverify.verdict import PROBLEMS, Status

_ROLES = ("routed_experts", "shared_experts", "dense_mlp", "heads", "hidden", "other")
CUTS: dict[str, tuple[str, ...]] = {
    "experts": ("experts",),
    "channels": ("routed_experts", "shared_experts", "dense_mlp"),
    "heads": ("heads",),
    "hidden": ("hidden",),
}
CUTS["all"] = tuple(role for cut in list(CUTS.values()) for role in cut)
Row = dict[str, Any]


def certify_cut(model_type: str, cut: str, folder: Path) -> Row:
    """Prune one type, and certify the two folders: the class, problems, what could not be seen, or the refusal."""
    model = build_zoo(model_type)
    with quiet_transformers(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder / "base")
        try:
            _prune(model, CUTS[cut])
        except MoEVerifyError as error:
            return {"refused": " ".join(str(error).split())}
        model.save_pretrained(folder / "pruned")
        examination = examine(folder / "base", folder / "pruned")
    return {
        "class": examination.headline,
        "passed": sum(v.status is Status.PASS for v in examination.verdicts),
        "problems": {v.check: v.message for v in examination.verdicts if v.status in PROBLEMS},
        "unseen": {v.check: v.message for v in examination.verdicts if v.status is Status.INCONCLUSIVE},
    }


def _prune(model: nn.Module, roles: Sequence[str]) -> None:
    """Take half of each role. What a role cannot give is left alone, but for whole experts."""
    torch.manual_seed(0)
    ratios = {role: 0.0 for role in _ROLES if role not in roles}
    ratios |= {"experts": 0.5} if "experts" in roles else {}
    inputs = token_inputs(model, 0)
    MoEPruner(model, inputs, pruning_ratio=0.5, ratios=ratios, round_to=None).step()


def table(results: Mapping[str, Mapping[str, Row]], packages: Mapping[str, str]) -> str:
    """The results by type and cut as Markdown."""
    rows = [row for cuts in results.values() for row in cuts.values()]
    made = [row for row in rows if "refused" not in row]
    run = [cut for cut in CUTS if any(cut in cuts for cuts in results.values())]
    lines = [
        "# Folders of our own pruner, certified",
        "",
        "Made by `python -m benchmarks.certify_zoo` with " + ", ".join(f"{k} {v}" for k, v in packages.items()) + ".",
        "Half of the experts, of the channels (routed, shared, dense), of the heads, of the residual stream, and all",
        "of that at once; both models are run.",
        "",
        f"{len(made)} folders of {len(results)} types: {sum(bool(row['problems']) for row in made)} with a problem, "
        f"{sum(bool(row['unseen']) for row in made)} with something that could not be seen. "
        f"{len(rows) - len(made)} prunings were refused.",
        "",
        "| type | " + " | ".join(run) + " |",
        "|---|" + "---|" * len(run),
    ]
    lines += [f"| {n} | " + " | ".join(_cell(c.get(cut)) for cut in run) + " |" for n, c in sorted(results.items())]
    exceptions = [
        f"- {name}, {cut}, {kind}: {message}"
        for name, cuts in sorted(results.items())
        for cut, row in cuts.items()
        for kind, message in _exceptions(row).items()
    ]
    return "\n".join([*lines, "", "## Exceptions", "", *(exceptions or ["None."])]) + "\n"


def _cell(row: Row | None) -> str:
    if row is None:
        return "not run"
    if "refused" in row:
        return "refused"
    text = f"{row['passed']} pass"
    text += f", **{len(row['problems'])} problems**" if row["problems"] else ""
    return text + (f", {len(row['unseen'])} inconclusive" if row["unseen"] else "")


def _exceptions(row: Row) -> dict[str, str]:
    if "refused" in row:
        return {"refused": row["refused"]}
    return {**row["problems"], **{k: f"inconclusive: {v}" for k, v in row["unseen"].items()}}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and write; 0 if no folder has a problem."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("reports/baselines"))
    parser.add_argument("--only", nargs="*", default=None, metavar="TYPE")
    parser.add_argument("--cuts", nargs="*", default=list(CUTS), metavar="CUT")
    parser.add_argument("--resume", action="store_true", help="keep what is there already")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    path = options.out / "certify-zoo.json"
    kept = options.resume or options.only is not None
    results = json.loads(path.read_text("utf-8"))["results"] if kept and path.exists() else {}
    with tempfile.TemporaryDirectory(prefix="moeverify-benchmark-") as place:
        loader = Kept(place)
        loader.start()
        try:
            for cut in options.cuts:
                for name in options.only or zoo_types():
                    cuts = results.setdefault(name, {})
                    if options.only is None and cut in cuts:
                        continue
                    with tempfile.TemporaryDirectory(dir=place) as folder:
                        cuts[cut] = certify_cut(name, cut, Path(folder))
                    print(name, cut, _cell(cuts[cut]), *_exceptions(cuts[cut]).items(), flush=True)
                    write_text(path, json.dumps({"versions": versions(), "results": results}, indent=1) + "\n")
        finally:
            loader.end()
    write_text(path.with_suffix(".md"), table(results, versions()))
    return int(any(row.get("problems") for cuts in results.values() for row in cuts.values()))


if __name__ == "__main__":
    raise SystemExit(main())
