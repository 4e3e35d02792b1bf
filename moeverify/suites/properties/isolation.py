"""``isolation``"""

from __future__ import annotations

from moeverify.suites.properties.registry import prop
from moeverify.suites.properties.trial import NotApplicable, Trial, require


@prop("isolation", groups=True)
def isolation(trial: Trial) -> None:
    """No group joins inner channels of two routed experts, unless the spec ties them; tied experts share one.

    Hidden channels, which all experts share, do not count. A class of fused experts joins them all, unless it states
    that each expert's channels are separate.
    """
    classes = trial.classes()
    if not classes:
        raise NotApplicable("the subject shows no groups")
    pairs = set()
    for pruning_class in classes:
        parameters = pruning_class.coupling.parameters
        if any(m.parameter == "model.embed_tokens.weight" and m.dim == 1 for m in pruning_class.coupling.members):
            continue
        touched = sorted({expert for p in parameters if (expert := trial.truth.boundary(p)) is not None})
        fused = {expert for expert in touched if expert not in trial.truth.experts}
        together = [e for e in trial.truth.experts if e.partition("[")[0] in touched]
        if not fused or pruning_class.experts != trial.spec.experts or len(touched) > 1:
            pairs |= {(a, b) for a in together for b in together if a != b}
    extra, missing = pairs - trial.truth.cross_expert, trial.truth.cross_expert - pairs
    require(not extra, f"{len(extra)} pairs of experts are joined that are independent, such as {sorted(extra)[:1]}")
    require(not missing, f"tied experts are not told as coupled: {sorted(missing)[:1]}")
