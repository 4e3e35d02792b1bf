"""``renaming``"""

from dataclasses import replace

from moeverify.suites.properties.registry import prop
from moeverify.suites.properties.trial import Trial, differing, require
from synthetic_models.names import FAMILIES


@prop("renaming")
def renaming(trial: Trial) -> None:
    """Other names of experts, routers and projections change nothing when the roles are given; a subject without such a
    parameter gets other usual names.
    """
    usual = [name for name, family in FAMILIES.items() if trial.subject == "moe" or family.patterns is None]
    start = replace(trial.spec, names=trial.spec.names if trial.spec.names in usual else usual[0])
    first = trial.model(start)
    trial.prune(first, spec=start)
    others = [name for name in usual if name != start.names]
    renamed = replace(start, names=others[trial.spec.seed % len(others)])
    second = trial.model(renamed)
    trial.prune(second, spec=renamed)
    lines = differing(first, second)
    require(not lines, f"named as {renamed.names} instead of {start.names}, {len(lines)} tensors differ: {lines[:1]}")
