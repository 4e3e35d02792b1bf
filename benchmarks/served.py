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
import resource
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF
from typing import Any

from benchmarks.served_table import BASE, cell, table
from moeverify.base.files import write_text
from moeverify.base.scratch import scratch_folder
from moeverify.base.versions import versions
from moeverify.errors import EngineError, MoEVerifyError, SourceError
from moeverify.models.engines.limit import exceeded_by
from moeverify.models.sources import load_source, quiet_transformers
from moeverify.models.zoo import zoo_types
from moeverify.pruning.pruner import MoEPruner
from moeverify.serving.answers import Answer, Question
from moeverify.serving.ask import ask
from moeverify.serving.compare import TOLERANCE, distances, judge
from moeverify.serving.engines import engines_named
from moeverify.serving.environment import Installation, installation
from moeverify.serving.folders import write_folder
from moeverify.serving.reference import draw_prompts, log_probabilities
from moeverify.serving.registry import Engine
from moeverify.subjects.faults import all_faults
from moeverify.verdict import Status

BATCH = 8  # types that share one process of an engine; the results are written after each batch
SECONDS = 1200.0
CUTS: Mapping[str, Mapping[str, Any]] = {
    "experts 0.5": {"pruning_ratio": 0.0, "ratios": {"experts": 0.5}},
    "channels 0.5": {"pruning_ratio": 0.5, "ratios": {"hidden": 0.0, "heads": 0.0}},
    "hidden 0.5": {"pruning_ratio": 0.0, "ratios": {"hidden": 0.5}},
}
PROMPTS = draw_prompts(256, 0)
# What a right pruning should not be.
WRONG = ("differs", "refused", "gives no numbers", "conversion differs")


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


def references(folders: Mapping[str, Path]) -> dict[str, Any]:
    """What transformers says of each folder: log-probabilities, or the reason why not."""
    result: dict[str, Any] = {}
    for name, folder in folders.items():
        try:
            result[name] = log_probabilities(folder, PROMPTS)
        except EngineError as error:
            result[name] = str(error)
    return result


def ask_all(places: Sequence[Installation], folders: Sequence[Sequence[Path]]) -> list[dict[Path, Answer]]:
    """The answers of each engine to its folders; each waits for one process of its own."""

    def one(place: Installation, mine: Sequence[Path]) -> dict[Path, Answer]:
        if not mine:
            return {}
        assert place.python is not None
        answers = ask(place.engine, place.python, Question(tuple(mine), PROMPTS), SECONDS)
        return {answer.folder: answer for answer in answers}

    with ThreadPoolExecutor(len(places)) as pool:
        return list(pool.map(one, places, folders))


def row_of(
    place: Installation, item: Built, answers: Mapping[Path, Answer], expected: Mapping[str, Any]
) -> dict[str, Any]:
    """What one engine makes of one type: a word, a number and a message for each cut."""
    mine = {name: answers[folder] for name, folder in item.folders.items() if folder in answers}
    base_gap = _gaps(mine.get(BASE), expected.get(BASE))
    row: dict[str, Any] = {name: {"word": "not pruned", "message": why} for name, why in item.refused.items()}
    for name, answer in mine.items():
        if name == BASE or mine[BASE].served:
            entry = _entry(place, item, name, mine, expected, base_gap)
            foreseen = {"told": True} if entry["word"] in WRONG and told_by_plan(place.engine, item, name) else {}
            row[name] = {**entry, **foreseen, "version": answer.version}
    return row


def told_by_plan(engine: Engine, item: Built, name: str) -> bool:
    """Whether ``--for`` refuses such a plan, or notes that the engine computes otherwise."""
    before, after = (
        {
            limit
            for limit in exceeded_by(engine.limits, json.loads((item.folders[n] / "config.json").read_text("utf-8")))
            if limit.effect != "slower"
        }
        for n in (BASE, name)
    )
    return bool(after - before)


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
    """What each fault of the family ``serving`` makes of its type: transformers runs it."""
    result = []
    for fault in (f for f in all_faults() if f.family == "serving"):
        model_type = fault.source.removeprefix("zoo:")
        built = base_of(model_type, place)
        wrong = place / model_type / "wrong"
        fault.prune(built.folders[BASE], wrong, pruning_ratio=fault.pruning_ratio, seed=0)
        result.append(Built(model_type, {**built.folders, fault.cause: wrong}, {}))
    return result


def run_wrong(places: Sequence[Installation], place: Path, results: dict[str, Any]) -> None:
    """Ask every engine for the wrong prunings."""
    batch = wrong_prunings(place)
    answers = ask_all(places, [[folder for item in batch for folder in item.folders.values()]] * len(places))
    _add(places, batch, answers, results)


def run_batch(types: Sequence[str], places: Sequence[Installation], place: Path, results: dict[str, Any]) -> None:
    """Ask every engine for the bases, and for what was made of those that it serves."""
    bases = [base_of(model_type, place) for model_type in types]
    answers = ask_all(places, [[item.folders[BASE] for item in bases if BASE in item.folders]] * len(places))
    served = [{folder for folder, answer in found.items() if answer.served} for found in answers]
    batch = [with_cuts(item, place) if item.folders.get(BASE) in set().union(*served) else item for item in bases]
    cuts = [
        [folder for item in batch if item.folders.get(BASE) in mine for n, folder in item.folders.items() if n != BASE]
        for mine in served
    ]
    more = ask_all(places, cuts)
    _add(places, batch, [{**one, **two} for one, two in zip(answers, more, strict=True)], results)


def _add(places: Sequence[Installation], batch: Sequence[Built], answers: Sequence[Mapping[Path, Answer]],
         results: dict[str, Any]) -> None:  # fmt: skip
    for item in batch:
        expected = references(item.folders)
        for place, found in zip(places, answers, strict=True):
            row = row_of(place, item, found, expected)
            results.setdefault(item.model_type, {})[place.engine.name] = row
            print(place.engine.name, item.model_type, {k: cell(v) for k, v in row.items()}, flush=True)


def _decided(rows: Mapping[str, Mapping[str, Any]] | None) -> bool:
    """Whether every engine answered in time."""
    return rows is not None and all(entry["word"] != "undecided" for row in rows.values() for entry in row.values())


def cpu_seconds() -> float:
    """Processor time of this process and of those that it waited for."""
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, (RUSAGE_SELF, RUSAGE_CHILDREN)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and write; 0 unless a pruned model is not served as its base is, and no plan tells so."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("reports/baselines"))
    parser.add_argument("--only", nargs="*", default=None, metavar="TYPE")
    parser.add_argument("--batch", type=int, default=BATCH, metavar="TYPES")
    parser.add_argument("--engines", default="vllm,llama.cpp")
    parser.add_argument("--resume", action="store_true", help="keep what is there already")
    options = parser.parse_args(arguments)
    path = options.out / "served.json"
    kept = options.resume or options.only is not None
    data = json.loads(path.read_text("utf-8")) if kept and path.exists() else {}
    data = {
        "engines": {},
        "versions": versions(),
        "seconds": 0.0,
        "cpu_seconds": 0.0,
        "results": {},
        "wrong": {},
        **data,
        "types": len(zoo_types()),
    }
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

    wanted = options.only or [t for t in zoo_types() if not _decided(data["results"].get(t))]

    def timed(work: Callable[[Path], None]) -> None:
        begin, spent = time.monotonic(), cpu_seconds()
        with scratch_folder("served") as place, quiet_transformers():
            work(place)
        data["seconds"] += time.monotonic() - begin
        data["cpu_seconds"] += cpu_seconds() - spent
        write()

    if not data["wrong"]:
        timed(lambda place: run_wrong(places, place, data["wrong"]))
    for start in range(0, len(wanted), options.batch):
        types = wanted[start : start + options.batch]
        timed(lambda place, types=types: run_batch(types, places, place, data["results"]))
    right = [e for row in data["results"].values() for cells in row.values() for n, e in cells.items() if n != BASE]
    return int(any(e["word"] in WRONG and not e.get("told") for e in right))


if __name__ == "__main__":
    raise SystemExit(main())
