"""Multi-gate experts for recommendations."""

import torch

PACKAGE = "torch-rechub"


def make():
    """The model and its input."""
    from torch_rechub.basic.features import DenseFeature, SparseFeature
    from torch_rechub.models.multi_task import MMOE

    torch.manual_seed(0)
    features = [SparseFeature(f"c{n}", vocab_size=12, embed_dim=8) for n in range(3)]
    features += [DenseFeature(f"d{n}") for n in range(2)]
    towers = [{"dims": [8]} for _ in range(2)]
    model = MMOE(
        features,
        ["classification", "regression"],
        n_expert=3,
        expert_params={"dims": [24, 16]},
        tower_params_list=towers,
    )
    inputs = {f"c{n}": torch.randint(0, 12, (16,)) for n in range(3)}
    inputs |= {f"d{n}": torch.rand(16) for n in range(2)}
    with torch.no_grad():
        for _ in range(20):  # statistics as after training
            model.train()(inputs)
    return model.eval(), (inputs,)
