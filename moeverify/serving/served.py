"""Base and pruned folder in several engines: the same prompts, compared with transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from moeverify.errors import EngineError
from moeverify.serving.answers import Answer, Question
from moeverify.serving.ask import ask
from moeverify.serving.compare import Outcome, distances, judge
from moeverify.serving.environment import installation
from moeverify.serving.folders import outside
from moeverify.serving.reference import draw_prompts, log_probabilities, vocabulary_of
from moeverify.serving.registry import Engine
from moeverify.serving.settings import SECONDS
from moeverify.verdict import Status


@dataclass(frozen=True)
class Asked:
    """Request to engines."""

    seed: int = 0
    threads: int = 1
    seconds: float = SECONDS


def serve_pair(
    base: Path,
    pruned: Path,
    engines: Sequence[Engine],
    asked: Asked = Asked(),
    on_engine: Callable[[str], None] = lambda name: None,
) -> list[Outcome]:
    """One outcome an engine. Raises ``EngineError`` if transformers itself does not run one of the folders."""
    places = [installation(engine) for engine in engines]
    if not any(place.python for place in places):  # nothing to compare with
        return [_not_there(place.engine, place.problem) for place in places]
    folders = (base.resolve(), pruned.resolve())
    prompts = draw_prompts(min(vocabulary_of(folder) for folder in folders), asked.seed)
    references = [log_probabilities(folder, prompts) for folder in folders]
    question = Question(folders, prompts, threads=asked.threads)
    result = []
    for place in places:
        on_engine(place.engine.name)
        if place.python is None:
            result.append(_not_there(place.engine, place.problem))
        else:
            result.append(_outcome(place.engine, place.python, question, references, asked.seconds))
    return result


def _not_there(engine: Engine, problem: str) -> Outcome:
    return Outcome(engine.name, "", Status.SKIP, f"{engine.name}: {problem}")


def _outcome(
    engine: Engine, python: Path, question: Question, references: Sequence[np.ndarray], seconds: float
) -> Outcome:
    try:
        answers = ask(engine, python, question, seconds)
        if answers[0].served and not answers[1].served and not answers[1].undecided:
            # A refusal is a verdict: it has to come twice.
            again = ask(engine, python, replace(question, folders=question.folders[1:]), seconds)
            answers = (answers[0], again[0])
    except EngineError as error:
        return Outcome(engine.name, "", Status.INCONCLUSIVE, str(error))
    gaps = [
        distances(answer, reference) if answer.served else ()
        for answer, reference in zip(answers, references, strict=True)
    ]
    outcome = replace(judge(engine.name, answers, *gaps), facts=_facts(engine, question, answers))
    faults = _faults(engine, question, answers)
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        message = f"{engine.name} {outcome.version}: {faults[0]}{more}"
        outcome = replace(outcome, status=Status.FAIL, message=message, facts={**outcome.facts, "faults": faults})
    return outcome


def _faults(engine: Engine, question: Question, answers: Sequence[Answer]) -> list[str]:
    if engine.inspect is None or not answers[0].served:
        return []
    return engine.inspect(question.folders[0], question.folders[1], answers[0], answers[1])


def _facts(engine: Engine, question: Question, answers: Sequence[Answer]) -> dict[str, Any]:
    notes = outside(engine, question.folders[1])
    logs = {name: answer.facts["log"] for name, answer in zip(("base_log", "pruned_log"), answers, strict=True)
            if "log" in answer.facts}  # fmt: skip
    return {**({"limits": notes} if notes else {}), **logs}
