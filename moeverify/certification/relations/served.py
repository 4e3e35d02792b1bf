"""``served``"""

from __future__ import annotations

import os

import torch

from moeverify.certification.evidence import Evidence, NotVisible
from moeverify.certification.oracle.running import check_asked, fits
from moeverify.certification.relations.registry import inconclusive, relation
from moeverify.checks.registry import Finding
from moeverify.errors import EngineError
from moeverify.serving.compare import combined
from moeverify.serving.engines import engines_named
from moeverify.serving.served import Asked, serve_pair


@relation("served", when=lambda options: bool(options.engines))
def served(evidence: Evidence) -> Finding:
    """Engines serve the pruned folder as transformers runs it, up to what they do with the base."""
    options = evidence.options
    engines = engines_named(options.engines)
    check_asked(evidence)
    if options.oracle == "sample" and not fits(evidence):
        size = max(evidence.base_inventory.nbytes, evidence.inventory.nbytes) / 2**30
        raise NotVisible(
            f"not run: transformers and each engine would hold {size:.1f} GiB; --oracle full asks for that"
        )
    threads = min(torch.get_num_threads(), os.cpu_count() or 1)
    asked = Asked(options.seed, threads, options.engine_timeout)
    try:
        outcomes = serve_pair(evidence.base_folder, evidence.pruned_folder, engines, asked)
    except EngineError as error:
        return inconclusive(str(error))
    evidence.facts["served"] = [outcome.to_dict() for outcome in outcomes]
    status, message = combined(outcomes)
    return Finding(status, message, {"engines": [outcome.to_dict() for outcome in outcomes]})
