"""One case: load a source, let the subject prune it, run the checks. Runs in a process of its own."""

from __future__ import annotations

import contextlib
import copy
import shlex
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from moeverify.checks import CHECKS, default_names
from moeverify.checks.context import Context
from moeverify.errors import ExpansionsExceeded, MoEVerifyError
from moeverify.evaluation.settings import QualitySettings
from moeverify.models.offload import fetch_offloaded
from moeverify.models.roles import Roles, roles_in_force
from moeverify.models.sources import LoadedModel, load_source, parse_dtype
from moeverify.subjects import Pruned, Subject, adapt, load_subject
from moeverify.verdict import CaseFacts, Status, Verdict
from moeverify.verification.facts import model_facts, outcome_facts


@dataclass(frozen=True)
class Case:
    """What is verified: one source, one subject, one setting. With ``groups`` the facts tell the subject's groups.
    ``roles`` are naming patterns of experts, routers and shared experts, where the usual ones do not find them.
    """

    source: str
    subject: str = "moe"
    pruning_ratio: float = 0.5
    seed: int = 0
    dtype: str = "float32"
    checks: tuple[str, ...] = ()
    trust_remote_code: bool = False
    device: str = "cpu"
    quality: QualitySettings = field(default_factory=QualitySettings)
    groups: bool = False
    roles: Mapping[str, str] = field(default_factory=dict, hash=False)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Case:
        """The inverse of ``to_dict``."""
        quality = QualitySettings.from_dict(data.get("quality", {}))
        return cls(**{**data, "checks": tuple(data["checks"]), "quality": quality})

    def check_names(self) -> tuple[str, ...]:
        """The checks of this case, in the report's order."""
        return self.checks or default_names()

    def reproduce(self) -> str:
        """A command that runs this case again."""
        words = ["moeverify", "verify", self.source]
        if self.subject != "moe":
            words += ["--subject", self.subject]
        words += ["--pruning-ratio", str(self.pruning_ratio), "--seed", str(self.seed)]
        if self.dtype != "float32":
            words += ["--dtype", self.dtype]
        if self.trust_remote_code:
            words += ["--trust-remote-code"]
        if self.device != "cpu":
            words += ["--device", self.device]
        for role, pattern in self.roles.items():
            words += [f"--{role.replace('_', '-')}-pattern", pattern]
        if "quality" in self.check_names():
            words += ["--checks", "quality", *self.quality.options()]
        return shlex.join(words)


Emit = Callable[[str | Verdict | CaseFacts], None]


def run_case(case: Case, emit: Emit, *, loaded: LoadedModel | None = None, subject: Subject | None = None) -> None:
    """Run one case and hand on stages (strings), facts and verdicts as they come.

    Roles that are functions are put in force by the caller.

    ``loaded`` and ``subject`` take the place of what the case names, for a model or a function that lives in this
    process. A subject that crashes is a verdict.

    Raises ``MoEVerifyError`` if the source or the subject cannot be loaded.
    """
    with roles_in_force(Roles(**case.roles)) if case.roles else contextlib.nullcontext():
        _run_case(case, emit, loaded, subject)


def _run_case(case: Case, emit: Emit, loaded: LoadedModel | None, subject: Subject | None) -> None:
    seconds: dict[str, float] = {}
    emit("load")
    begin = time.perf_counter()
    subject = adapt(subject) if subject else load_subject(case.subject)
    loaded = loaded or load_source(
        case.source,
        seed=case.seed,
        dtype=parse_dtype(case.dtype),
        trust_remote_code=case.trust_remote_code,
        device=case.device,
    )
    inputs = fetch_offloaded(loaded.model, loaded.example_inputs)
    original = copy.deepcopy(loaded.model)
    known = model_facts(original, loaded.notes)
    known |= {"dtype": case.dtype, "seed": case.seed, "pruning_ratio": case.pruning_ratio}
    seconds["load"] = time.perf_counter() - begin

    emit("prune")
    begin = time.perf_counter()
    try:
        outcome = subject(loaded.model, inputs, pruning_ratio=case.pruning_ratio, seed=case.seed)
    except Exception as error:
        _crashed(case, error, time.perf_counter() - begin, emit)
        emit(CaseFacts(case.source, case.subject, {**known, "seconds": seconds}))
        return
    seconds["prune"] = time.perf_counter() - begin
    context = Context(
        source=case.source,
        original=original,
        pruned=loaded.model.eval(),
        example_inputs=inputs,
        outcome=outcome if isinstance(outcome, Pruned) else Pruned(),
        pruning_ratio=case.pruning_ratio,
        seed=case.seed,
        dtype=case.dtype,
        subject=subject,
        tokenizer=loaded.tokenizer,
        quality=case.quality.or_local(loaded.tasks),
    )
    for name in case.check_names():
        emit(name)
        begin = time.perf_counter()
        try:
            finding = CHECKS[name](context)
            status, message, evidence = finding.status, finding.message, dict(finding.evidence)
        except Exception as error:
            status, message = Status.ERROR, f"the check could not be carried out: {type(error).__name__}: {error}"
            evidence = {"traceback": traceback.format_exc(limit=-12)}
        seconds[name] = time.perf_counter() - begin
        emit(verdict_of(case, name, status, message, evidence, seconds[name]))
    emit(
        CaseFacts(
            case.source, case.subject, {**known, **outcome_facts(context, groups=case.groups), "seconds": seconds}
        )
    )


def verdict_of(
    case: Case, check: str, status: Status, message: str, evidence: Mapping[str, Any], seconds: float = 0.0
) -> Verdict:
    """A verdict on ``case``."""
    return Verdict(case.source, case.subject, check, status, message, evidence, case.reproduce(), seconds)


def _crashed(case: Case, error: Exception, seconds: float, emit: Emit) -> None:
    line = " ".join(str(error).split())[:400]
    kind = "refused" if isinstance(error, MoEVerifyError) else f"crashed ({type(error).__name__})"
    evidence = {} if isinstance(error, MoEVerifyError) else {"traceback": traceback.format_exc(limit=-12)}
    status = Status.ERROR
    if isinstance(error, ExpansionsExceeded):
        status, kind, evidence = Status.TIMEOUT, "does not come to an end", {"frames": list(error.frames)}
    emit(verdict_of(case, "terminates", status, f"the subject {kind}: {line}", evidence, seconds))
    for name in case.check_names():
        if name != "terminates":
            emit(verdict_of(case, name, Status.SKIP, "not reached: the subject did not finish", {}))
