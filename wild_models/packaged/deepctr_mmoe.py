"""Multi-gate experts for click rates, features in the columns of one matrix."""

import torch

PACKAGE = "deepctr-torch"


def make():
    """The model and its input."""
    from deepctr_torch.inputs import DenseFeat, SparseFeat
    from deepctr_torch.models.multitask.mmoe import MMOE

    torch.manual_seed(0)
    columns = [SparseFeat(f"c{n}", vocabulary_size=12, embedding_dim=8) for n in range(3)]
    columns += [DenseFeat(f"d{n}", 1) for n in range(2)]
    model = MMOE(
        columns,
        num_experts=3,
        expert_dnn_hidden_units=(24, 16),
        gate_dnn_hidden_units=(12,),
        tower_dnn_hidden_units=(8,),
        init_std=0.1,
        task_types=["binary", "binary"],
        task_names=["ctr", "cvr"],
    )
    numbers = [torch.randint(0, 12, (16, 1)).float() for _ in range(3)] + [torch.rand(16, 1) for _ in range(2)]
    return model.eval(), torch.cat(numbers, 1)
