"""Every MoE type of transformers that an engine knows, unpruned and pruned, in vLLM and llama.cpp.

``python -m benchmarks.served`` builds each type in a size that engines take, prunes it in three ways, and asks the
engines that are installed (``moeverify engines install vllm llama.cpp``). It writes ``reports/baselines/served.json``
after each batch and the table ``served.md`` beside it. ``--only`` runs named types again, ``--resume`` keeps what is
there already.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from moeverify.base.files import write_text
from moeverify.base.scratch import scratch_folder
from moeverify.base.versions import versions
from moeverify.errors import EngineError, MoEVerifyError, SourceError
from moeverify.models.sources import load_source, quiet_transformers
from moeverify.models.zoo import zoo_types
from moeverify.models.zoo.build import randomise
from moeverify.models.zoo.shrink import shrunken_config
from moeverify.pruning.pruner import MoEPruner
from moeverify.serving.answers import Answer, Question
from moeverify.serving.ask import ask
from moeverify.serving.compare import TOLERANCE, distances, judge
from moeverify.serving.engines import engines_named
from moeverify.serving.environment import Installation, installation
from moeverify.serving.folders import write_folder
from moeverify.serving.reference import draw_prompts, log_probabilities
from moeverify.verdict import Status

BATCH = 6
SECONDS = 1200.0
BASE = "base"
CUTS: Mapping[str, Mapping[str, Any]] = {
    "experts 0.5": {"pruning_ratio": 0.0, "ratios": {"experts": 0.5}},
    "channels 0.5": {"pruning_ratio": 0.5, "ratios": {"hidden": 0.0, "heads": 0.0}},
    "hidden 0.5": {"pruning_ratio": 0.0, "ratios": {"hidden": 0.5}},
}
PROMPTS = draw_prompts(256, 0)
GROUPED = "deepseek_v3"


@dataclass(frozen=True)
class Built:
    """The folders of one type, and why some could not be made."""

    model_type: str
    folders: Mapping[str, Path]
    refused: Mapping[str, str]


def base_of(model_type: str, place: Path) -> Built:
    """The base of a type."""
    try:
        model = load_source(f"zoo:{model_type}", engine_ready=True).model
    except SourceError as error:
        return Built(model_type, {}, {BASE: str(error)})
    return Built(model_type, {BASE: write_folder(model, place / model_type / "base")}, {})


def with_cuts(base: Built, place: Path, cuts: Mapping[str, Any] = CUTS) -> Built:
    """The base of a type and what each cut makes of it."""
    folders, refused = dict(base.folders), dict(base.refused)
    loaded = load_source(f"zoo:{base.model_type}", engine_ready=True)
    for name, request in cuts.items():
        model = copy.deepcopy(loaded.model)
        try:
            ignored = [m for m in [getattr(model, "lm_head", None)] if m is not None]
            MoEPruner(model, loaded.example_inputs, ignored_layers=ignored, **request).step()
        except MoEVerifyError as error:
            refused[name] = str(error)
            continue
        folders[name] = write_folder(model, place / base.model_type / name.replace(" ", "-"))
    return Built(base.model_type, folders, refused)


def not_renumbered(base: Path, place: Path) -> Path:
    """A wrong pruning: every second expert of the base, under its old number."""
    config = json.loads((base / "config.json").read_text("utf-8"))
    count = next(key for key in ("num_local_experts", "num_experts", "n_routed_experts") if key in config)
    old = config[count]
    config[count] = old // 2
    tensors = {}
    for name, tensor in load_file(base / "model.safetensors").items():
        if ".experts." in name:
            if int(name.partition(".experts.")[2].partition(".")[0]) % 2 == 0:
                continue
        elif tensor.dim() and tensor.shape[0] == old and ("gate" in name or "router" in name):
            tensor = tensor[1::2].clone()
        tensors[name] = tensor
    return _written(config, tensors, place)


def groups_that_do_not_divide(base: Path, place: Path) -> Path:
    """A wrong pruning: 10 of 16 experts stay in 4 groups; transformers takes tokens and experts together."""
    config = json.loads((base / "config.json").read_text("utf-8"))
    kept = [0, 1, 2, 4, 5, 6, 8, 9, 12, 13]
    config["n_routed_experts"] = len(kept)
    tensors = {}
    for name, tensor in load_file(base / "model.safetensors").items():
        if ".experts." in name:
            head, _, tail = name.partition(".experts.")
            number, _, rest = tail.partition(".")
            if int(number) not in kept:
                continue
            name = f"{head}.experts.{kept.index(int(number))}.{rest}"
        elif tensor.dim() and tensor.shape[0] == 16 and ".gate." in name:
            tensor = tensor[kept].clone()
        tensors[name] = tensor
    return _written(config, tensors, place)


def ids_not_mapped(base: Path, pruned: Path, place: Path) -> Path:
    """A wrong pruning: experts went and the table of expert ids is the base's, where no prompt reads it."""
    config = json.loads((pruned / "config.json").read_text("utf-8"))
    tensors, before = load_file(pruned / "model.safetensors"), load_file(base / "model.safetensors")
    used = sorted({token for prompt in PROMPTS for token in prompt})
    for name in tensors:
        if name.endswith("tid2eid"):
            mapped = tensors[name]
            tensors[name] = before[name].clone()
            tensors[name][used] = mapped[used]
    return _written(config, tensors, place)


def _written(config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], place: Path) -> Path:
    place.mkdir(parents=True)
    (place / "config.json").write_text(json.dumps(config), "utf-8")
    save_file(dict(tensors), place / "model.safetensors", {"format": "pt"})
    return place


def references(folders: Mapping[str, Path]) -> dict[str, Any]:
    """What transformers says of each folder: log-probabilities, or the reason why not."""
    found: dict[str, Any] = {}
    for name, folder in folders.items():
        try:
            found[name] = log_probabilities(folder, PROMPTS)
        except EngineError as error:
            found[name] = str(error)
    return found


def ask_all(places: Sequence[Installation], folders: Sequence[Path]) -> list[dict[Path, Answer]]:
    """The answers of each engine by folder; each waits for a process of its own."""

    def one(place: Installation) -> dict[Path, Answer]:
        if not folders:
            return {}
        assert place.python is not None
        answers = ask(place.engine, place.python, Question(tuple(folders), PROMPTS), SECONDS)
        return {answer.folder: answer for answer in answers}

    with ThreadPoolExecutor(len(places)) as pool:
        return list(pool.map(one, places))


def row_of(
    place: Installation, item: Built, answers: Mapping[Path, Answer], expected: Mapping[str, Any]
) -> dict[str, Any]:
    """What one engine makes of one type: a word, a number and a message for each cut."""
    mine = {name: answers[folder] for name, folder in item.folders.items() if folder in answers}
    base_gap = _gaps(mine.get(BASE), expected.get(BASE))
    row: dict[str, Any] = {name: {"word": "not pruned", "message": why} for name, why in item.refused.items()}
    for name, answer in mine.items():
        if name == BASE or mine[BASE].served:
            row[name] = {**_entry(place, item, name, mine, expected, base_gap), "version": answer.version}
    return row


def _gaps(answer: Answer | None, expected: Any) -> tuple[float, ...]:
    return () if answer is None or not answer.served or isinstance(expected, str) else distances(answer, expected)


def _entry(place: Installation, item: Built, name: str, answers: Mapping[str, Answer], expected: Mapping[str, Any],
           base_gap: tuple[float, ...]) -> dict[str, Any]:  # fmt: skip
    answer, base = answers[name], answers[BASE]
    if not answer.served:
        return {"word": "undecided" if answer.undecided else "refused", "message": answer.refused}
    if isinstance(expected[name], str):
        return {"word": "not run by transformers", "message": expected[name]}
    gap = _gaps(answer, expected[name])
    number = sorted(gap)[len(gap) // 2]
    if number == float("inf"):
        return {"word": "gives no numbers", "message": judge(place.engine.name, (base, answer), base_gap, gap).message}
    if name == BASE:
        return {"word": "agrees" if number <= TOLERANCE else "differs", "gap": number}
    outcome = judge(place.engine.name, (base, answer), base_gap, gap)
    faults = place.engine.inspect(item.folders[BASE], item.folders[name], base, answer) if place.engine.inspect else []
    if faults:
        return {"word": "conversion differs", "message": faults[0], "gap": number}
    word = {Status.PASS: "agrees", Status.FAIL: "differs"}.get(outcome.status, "differs as its base does")
    return {"word": word, "gap": number, **({"message": outcome.message} if outcome.status is Status.FAIL else {})}


def wrong_prunings(place: Path) -> list[Built]:
    """Three wrong prunings that transformers runs."""
    from transformers import AutoModelForCausalLM

    found = []
    mixtral = base_of("mixtral", place)
    wrong = not_renumbered(mixtral.folders[BASE], place / "mixtral" / "wrong")
    found.append(Built("mixtral", {**mixtral.folders, "experts in another order, not renumbered": wrong}, {}))

    config = shrunken_config(GROUPED, engine_ready=True)
    config.n_routed_experts, config.n_group, config.topk_group = 16, 4, 2
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    randomise(model, 0)
    base = write_folder(model, place / GROUPED / "base")
    wrong = groups_that_do_not_divide(base, place / GROUPED / "wrong")
    found.append(Built(GROUPED, {BASE: base, "groups that do not divide": wrong}, {}))

    tables = with_cuts(base_of("deepseek_v4", place), place, {"right": CUTS["experts 0.5"]})
    wrong = ids_not_mapped(tables.folders[BASE], tables.folders["right"], place / "deepseek_v4" / "wrong")
    found.append(Built("deepseek_v4", {BASE: tables.folders[BASE], "a table of expert ids not mapped": wrong}, {}))
    return found


def run_wrong(places: Sequence[Installation], place: Path, results: dict[str, Any]) -> None:
    """Ask every engine for the wrong prunings."""
    batch = wrong_prunings(place)
    answers = ask_all(places, [folder for item in batch for folder in item.folders.values()])
    _add(places, batch, answers, results)


def run_batch(types: Sequence[str], places: Sequence[Installation], place: Path, results: dict[str, Any]) -> None:
    """Ask every engine for the bases, and for what was made of those that one of them serves."""
    bases = [base_of(model_type, place) for model_type in types]
    answers = ask_all(places, [item.folders[BASE] for item in bases if BASE in item.folders])
    served = {folder for found in answers for folder, answer in found.items() if answer.served}
    batch = [with_cuts(item, place) if item.folders.get(BASE) in served else item for item in bases]
    more = ask_all(places, [folder for item in batch for name, folder in item.folders.items() if name != BASE])
    _add(places, batch, [{**one, **two} for one, two in zip(answers, more, strict=True)], results)


def _add(places: Sequence[Installation], batch: Sequence[Built], answers: Sequence[Mapping[Path, Answer]],
         results: dict[str, Any]) -> None:  # fmt: skip
    for item in batch:
        expected = references(item.folders)
        for place, found in zip(places, answers, strict=True):
            row = row_of(place, item, found, expected)
            results.setdefault(item.model_type, {})[place.engine.name] = row
            print(place.engine.name, item.model_type, {k: _cell(v) for k, v in row.items()}, flush=True)


def table(data: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    engines = list(data["engines"])
    results, columns = data["results"], (BASE, *CUTS)
    known = [
        t
        for t in sorted(results)
        if any(_cell(results[t].get(e, {}).get(BASE)) not in ("refused", "–") for e in engines)
    ]
    packages = ", ".join(f"{name} {version}" for name, version in {**data["engines"], **data["versions"]}.items())
    lines = [
        "# MoE types in other engines, unpruned and pruned",
        "",
        f"Made by `python -m benchmarks.served` in {data['seconds'] / 60:.0f} minutes with {packages}.",
        "",
        "Small random models in sizes that engines take (`--engine-ready`), float32, 8 prompts of 16 tokens. A number",
        "is the median over prompts of the largest difference from transformers among the 20 likeliest tokens.",
        f"*agrees*: at most {TOLERANCE}, or in the pruned model at most that more than in the base. *differs as its",
        "base does*: the engine computes another function than transformers before anything is pruned.",
        "",
        f"{len(known)} of {len(results)} types are served by an engine before pruning.",
        "",
    ]
    for engine in engines:
        lines += [
            f"## {engine} {data['engines'][engine]}",
            "",
            "| type | " + " | ".join(columns) + " |",
            "|---|" + "---|" * len(columns),
        ]
        mine = [t for t in known if _served(results[t].get(engine))]
        for model_type in mine:
            row = results[model_type][engine]
            lines.append(f"| {model_type} | " + " | ".join(_cell(row.get(name)) for name in columns) + " |")
        lines += [
            "",
            f"Refused before pruning: {', '.join(t for t in sorted(results) if t not in mine) or 'none'}.",
            "",
        ]
    lines += ["## Wrong prunings that transformers runs", "", "| type | what is wrong | " + " | ".join(engines) + " |",
              "|---|---|" + "---|" * len(engines)]  # fmt: skip
    for model_type, by_engine in data["wrong"].items():
        names = dict.fromkeys(name for row in by_engine.values() for name in row)
        for name in names:
            cells = (_cell(by_engine.get(engine, {}).get(name)) for engine in engines)
            lines.append(f"| {model_type} | {'nothing: base' if name == BASE else name} | {' | '.join(cells)} |")
    messages = [
        f"- {engine}, {model_type}, {name}: {' '.join(entry['message'].split())}"
        for part in (results, data["wrong"])
        for model_type in part
        for engine in engines
        for name, entry in part[model_type].get(engine, {}).items()
        if entry.get("message") and not (part is results and name == BASE)
    ]
    return "\n".join([*lines, "", "## In the engines' words", "", *(messages or ["Nothing."])]) + "\n"


def _served(row: Mapping[str, Any] | None) -> bool:
    return bool(row) and row.get(BASE, {}).get("word") in ("agrees", "differs", "gives no numbers", "undecided")


def _cell(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "–"
    number = f" {entry['gap']:.1g}" if entry.get("gap", 0.0) > 1e-4 else ""
    return f"{entry['word']}{number}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and write; 0 unless a pruned model is not served as its base is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("reports/baselines"))
    parser.add_argument("--only", nargs="*", default=None, metavar="TYPE")
    parser.add_argument("--engines", default="vllm,llama.cpp")
    parser.add_argument("--resume", action="store_true", help="keep what is there already")
    options = parser.parse_args(arguments)
    path = options.out / "served.json"
    kept = options.resume or options.only is not None
    data = json.loads(path.read_text("utf-8")) if kept and path.exists() else {}
    data = {"engines": {}, "versions": versions(), "seconds": 0.0, "results": {}, "wrong": {}, **data}
    places = [p for e in engines_named(options.engines) if (p := installation(e)).python is not None]
    if not places:
        raise EngineError("no engine is installed; run `moeverify engines install vllm llama.cpp`")
    warnings.simplefilter("ignore")

    def write() -> None:
        for part in (data["results"], data["wrong"]):
            for by_engine in part.values():
                for engine, row in by_engine.items():
                    for entry in row.values():
                        data["engines"][engine] = entry.get("version") or data["engines"].get(engine, "")
        write_text(path, json.dumps(data, indent=1) + "\n")
        write_text(path.with_suffix(".md"), table(data))

    wanted = [t for t in options.only or zoo_types() if options.only or t not in data["results"]]
    with quiet_transformers():
        if not data["wrong"]:
            with scratch_folder("served") as place:
                begin = time.monotonic()
                run_wrong(places, place, data["wrong"])
            data["seconds"] += time.monotonic() - begin
            write()
        for start in range(0, len(wanted), BATCH):
            with scratch_folder("served") as place:
                begin = time.monotonic()
                run_batch(wanted[start : start + BATCH], places, place, data["results"])
            data["seconds"] += time.monotonic() - begin
            write()
    right = [e for row in data["results"].values() for cells in row.values() for n, e in cells.items() if n != BASE]
    return int(any(e["word"] in ("differs", "refused", "gives no numbers", "conversion differs") for e in right))


if __name__ == "__main__":
    raise SystemExit(main())
