"""lm-eval on a model in memory, through its own ``simple_evaluate`` and ``HFLM``."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from torch import nn

from moeverify.errors import EvaluationError
from moeverify.evaluation.scores import Evaluation, Score
from moeverify.evaluation.settings import EvaluationSettings

TASKS = Path(__file__).parent / "tasks"
LOCAL = "small"


def is_local(settings: EvaluationSettings) -> bool:
    """Whether all tasks are shipped with moeverify, so that nothing is downloaded."""
    return all(name == LOCAL or (TASKS / f"{name}.yaml").is_file() for name in settings.tasks)


def evaluate(model: nn.Module, tokenizer: Any, settings: EvaluationSettings) -> Evaluation:
    """Evaluate a causal language model as it is: in its own precision and where it lies.

    Raises ``EvaluationError`` in one line if lm-eval is not installed, a task is unknown or its data set is neither
    cached nor to be had.
    """
    try:
        from importlib.metadata import version

        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise EvaluationError(f"lm-eval is needed ({error}); pip install 'moeverify[eval]'") from error
    with _quiet():
        manager = _manager(is_local(settings))
        for name in settings.tasks:
            if name not in manager.all_tasks:
                raise EvaluationError(f"lm-eval has no task {name!r}; `lm-eval ls tasks` lists them")
        lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=settings.batch_size)
        try:
            results = simple_evaluate(
                lm,
                tasks=list(settings.tasks),
                num_fewshot=settings.num_fewshot,
                limit=settings.limit,
                bootstrap_iters=1000,
                task_manager=manager,
                random_seed=settings.seed,
                numpy_random_seed=settings.seed,
                torch_random_seed=settings.seed,
                fewshot_random_seed=settings.seed,
            )
        except Exception as error:
            if _is_missing_data(error):
                raise EvaluationError(
                    f"the data set of {', '.join(settings.tasks)} is neither cached nor on the hub: "
                    f"{_line(error)}; connect once, or use --tasks {LOCAL}"
                ) from error
            raise
    if results is None:
        raise EvaluationError("lm-eval gave no results: only the first process of a distributed run has them")
    versions = {"lm_eval": version("lm_eval"), **{k: str(v) for k, v in results["versions"].items()}}
    hashes = {task: _digest(samples) for task, samples in results["samples"].items()}
    return Evaluation(settings, versions, hashes, tuple(_scores(results)))


@functools.cache
def _manager(local: bool) -> Any:
    """lm-eval's task manager with our tasks; unless ``local``, also with lm-eval's own, which take seconds to index."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(TASKS), include_defaults=not local)


def _scores(results: Mapping[str, Any]) -> Iterator[Score]:
    for task, samples in results["samples"].items():
        row, config = results["results"][task], results["configs"][task]
        main = next((m["metric"] for m in config.get("metric_list") or []), None)
        unseen = True
        for key, value in row.items():
            metric, comma, kind = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            stderr = row.get(f"{metric}_stderr,{kind}")
            primary = unseen and metric == (main or metric)
            unseen &= not primary
            chosen = [s for s in samples if s.get("filter", kind) == kind and isinstance(s.get(metric), int | float)]
            values = tuple(float(s[metric]) for s in sorted(chosen, key=lambda s: s["doc_id"]))
            if not values or abs(sum(values) / len(values) - value) > 1e-6:
                values = ()  # not a mean over documents: a perplexity, an F1 over all
            yield Score(
                task=task,
                metric=metric if kind == "none" else f"{metric},{kind}",
                value=float(value),
                stderr=float(stderr) if isinstance(stderr, int | float) else None,
                higher_is_better=bool(results["higher_is_better"][task].get(metric, True)),
                documents=len({s["doc_id"] for s in samples}),
                chance=_chance(config, samples) if metric.startswith(("acc", "exact_match")) else None,
                values=values,
                primary=primary,
            )


def _chance(config: Mapping[str, Any], samples: list[Any]) -> float | None:
    """Score of guessing: one over the number of choices, or the value in the task's metadata."""
    if config.get("output_type") == "multiple_choice":
        counts = [len(s["resps"]) for s in samples]
        return sum(1 / n for n in counts) / len(counts)
    stated = (config.get("metadata") or {}).get("chance")
    return float(stated) if stated is not None else None


def _digest(samples: list[Any]) -> str:
    lines = sorted({(s["doc_id"], s["doc_hash"], s["prompt_hash"], s["target_hash"]) for s in samples})
    return hashlib.sha256(repr(lines).encode()).hexdigest()[:16]


def _is_missing_data(error: BaseException) -> bool:
    names = {"ConnectionError", "OfflineModeIsEnabled", "LocalEntryNotFoundError", "DatasetNotFoundError"}
    seen: BaseException | None = error
    while seen is not None:
        if type(seen).__name__ in names or isinstance(seen, ConnectionError):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A context without progress bars, warnings and the description of the machine by lm-eval and datasets."""
    import datasets
    import lm_eval.evaluator
    from transformers.utils import logging as transformers_logging

    # Each call describes the machine by running `pip list`, which takes longer than small tasks do.
    describe = mock.patch.object(lm_eval.evaluator, "add_env_info", return_value=None)
    loggers = [logging.getLogger(name) for name in ("lm_eval", "lm-eval", "datasets")]
    levels = [logger.level for logger in loggers]
    bars = datasets.utils.are_progress_bars_disabled()
    verbosity = transformers_logging.get_verbosity()
    parallel = os.environ.get("DISABLE_MULTIPROC")
    datasets.utils.disable_progress_bars()
    transformers_logging.set_verbosity_error()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        # tqdm draws on stderr, the bootstrap prints on stdout and would start a pool of processes for a small sum
        os.environ["DISABLE_MULTIPROC"] = "1"
        with describe, contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        os.environ.pop("DISABLE_MULTIPROC") if parallel is None else os.environ.update(DISABLE_MULTIPROC=parallel)
        transformers_logging.set_verbosity(verbosity)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if not bars:
            datasets.utils.enable_progress_bars()
