"""Certification inside of a case: the folder that a subject wrote against a base that the judge saves itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from moeverify.base.scratch import scratch_folder
from moeverify.certification.certify import examine
from moeverify.checks.registry import Finding
from moeverify.errors import MoEVerifyError
from moeverify.models.checkpoints import quiet_transformers
from moeverify.models.roles import Roles
from moeverify.verdict import PROBLEMS, Status

# Checks of a case judge these on the models themselves.
_ELSEWHERE = ("causal", "masked-equivalence")


def certified(original: nn.Module, folder: Path, *, roles: Roles | None = None) -> Finding:
    """Run certification on a folder: fails with the first relation that fails, else inconclusive with the first such
    one.
    """
    model: Any = original
    with scratch_folder("certify") as place:
        with quiet_transformers():
            model.save_pretrained(place / "base")
        try:
            examination = examine(place / "base", folder, oracle="none", roles=roles)
        except MoEVerifyError as error:
            return Finding(Status.FAIL, f"inventory: {error}")
    verdicts = [v for v in examination.verdicts if v.check not in _ELSEWHERE]
    evidence = {"class": examination.headline, "relations": {v.check: [v.status.value, v.message] for v in verdicts}}
    for statuses in (PROBLEMS, (Status.INCONCLUSIVE,)):
        for verdict in verdicts:
            if verdict.status in statuses:
                status = Status.FAIL if verdict.status in PROBLEMS else Status.INCONCLUSIVE
                return Finding(status, f"{verdict.check}: {verdict.message}", {**evidence, **verdict.evidence})
    return Finding(Status.PASS, f"the folder is a {examination.headline}", evidence)
