"""Conversion to GGUF: stale metadata, missing tensors and lost values are faults, the converter's own ways are not."""

import copy

import numpy as np
import pytest
from safetensors.numpy import save_file

from moeverify.serving.answers import Answer
from moeverify.serving.gguf_fidelity import conversion_faults


def gguf(experts=4, hidden=8, channels=6, layers=2):
    tensors = {"token_embd.weight": [16, hidden], "output_norm.weight": [hidden]}
    for layer in range(layers):
        tensors |= {
            f"blk.{layer}.ffn_gate_inp.weight": [experts, hidden],
            f"blk.{layer}.ffn_up_exps.weight": [experts, channels, hidden],
            f"blk.{layer}.ffn_down_exps.weight": [experts, hidden, channels],
        }
    metadata = {
        "x.expert_count": experts,
        "x.expert_used_count": 2,
        "x.embedding_length": hidden,
        "x.expert_feed_forward_length": channels,
        "x.block_count": layers,
        "x.vocab_size": 16,
    }
    return {"metadata": metadata, "tensors": tensors}


@pytest.fixture
def faults(tmp_path):
    """Faults of a pair of GGUF files beside checkpoints that hold ``stored`` values more."""

    def found(base, pruned, stored=0):
        folders = []
        for name, held, more in (("base", base, 0), ("pruned", pruned, stored)):
            folder = tmp_path / name
            folder.mkdir(exist_ok=True)
            values = sum(int(np.prod(shape)) for shape in held["tensors"].values())
            save_file({"w": np.zeros(values + more, np.float32)}, folder / "model.safetensors")
            folders.append(folder)
        return conversion_faults(
            *folders, *(Answer(f, facts={"gguf": g}) for f, g in zip(folders, (base, pruned), strict=True))
        )

    return found


def test_a_faithful_conversion_has_no_faults(faults):
    assert faults(gguf(), gguf(experts=2, channels=3)) == []
    assert faults(gguf(), gguf(layers=1)) == []


@pytest.mark.parametrize(
    ("entry", "value", "told"),
    [
        ("expert_count", 4, "expert_count 4, but blk.0.ffn_up_exps.weight has 2"),
        ("embedding_length", 16, "embedding_length 16, but token_embd.weight has 8"),
        ("expert_feed_forward_length", 12, "expert_feed_forward_length 12"),
        ("block_count", 3, "block_count 3, and 2 have tensors"),
        ("expert_used_count", 3, "3 of 2 experts are used"),
        ("expert_group_count", 3, "2 experts in 3 groups"),
    ],
)
def test_stale_metadata_are_a_fault_unless_the_base_has_them(faults, entry, value, told):
    base, pruned = gguf(), gguf(experts=2)
    pruned["metadata"][f"x.{entry}"] = value
    assert told in faults(base, pruned)[0]
    stale = copy.deepcopy(gguf(experts=2))
    stale["metadata"][f"x.{entry}"] = value
    assert faults(stale, pruned) == []


def test_a_missing_tensor_is_a_fault(faults):
    pruned = gguf(experts=2)
    del pruned["tensors"]["blk.1.ffn_gate_inp.weight"]
    assert faults(gguf(), pruned)[0] == "the converted file lacks blk.1.ffn_gate_inp.weight, which the base's has"


def test_values_that_did_not_arrive_are_a_fault(faults):
    (fault,) = faults(gguf(), gguf(experts=2), stored=5)
    assert "the converted file holds" in fault


def test_an_engine_that_gave_no_file_has_no_faults(tmp_path):
    assert conversion_faults(tmp_path, tmp_path, Answer(tmp_path), Answer(tmp_path)) == []
