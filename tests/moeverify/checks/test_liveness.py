"""What the laboratory leaves out of its gradients: dimensions that count experts, by given rules."""

import moeverify as mv
from moeverify.checks.evidence.liveness import Laboratory
from synthetic_models import Cycle, Spec, build, example_inputs


def test_routers_of_layers_that_share_experts_are_found_by_given_rules():
    sizes = {"hidden": 16, "widths": (8, 8, 8, 8), "shared_width": 8}
    cycles = (Cycle("shared_experts_between_layers"),)
    spec = Spec(layers=("moe", "moe"), names="arbitrary", storage="fused", cycles=cycles, **sizes)
    model = build(spec)
    for roles in (
        mv.Roles(experts=r"^blades$", routers=r"^chooser$"),
        mv.Roles(experts=r"^blades$", routers=lambda path, module: path.endswith(".chooser")),
    ):
        laboratory = Laboratory(model, mv.find_roles(model, roles), example_inputs(spec), 0)
        assert ("model.layers.1.mixture.chooser.weight", 0) in laboratory.counts_experts
