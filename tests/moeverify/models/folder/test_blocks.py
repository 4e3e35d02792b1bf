"""Weights of a folder in memory: a block at a time, or a few experts of a stack that nothing else needs."""

import pytest
import torch

from moeverify.models.folder.stored_model import open_stored_model
from moeverify.models.zoo import build_zoo

STACK = "model.layers.0.mlp.experts.gate_up_proj"


@pytest.fixture
def stored(tmp_path):
    build_zoo("qwen3_moe").save_pretrained(tmp_path)
    return open_stored_model(str(tmp_path), tmp_path, torch.float32)


def test_experts_that_pass_are_read_once_and_not_kept(stored):
    blocks, read = stored.blocks, []
    whole = blocks.read(STACK).clone()
    blocks.release()
    blocks.on_read, blocks.passing = read.append, frozenset({STACK})
    for expert in range(len(whole)):
        for _ in range(2):  # a few columns at a time
            assert torch.equal(blocks.read(STACK, (expert, expert + 1))[0], whole[expert])
    assert len(read) == len(whole)
    assert sum(read) == whole.nbytes
    assert not blocks._values
    assert torch.equal(blocks.read(STACK, (0, 2)), whole[:2])  # wanted again: from now on it is kept
    assert torch.equal(blocks.read(STACK), whole)
    assert torch.equal(blocks.read(STACK, (1, 3)), whole[1:3])
    assert sum(read) == 2 * whole.nbytes


def test_without_leave_to_pass_a_stack_is_kept(stored):
    blocks, read = stored.blocks, []
    blocks.on_read = read.append
    for expert in range(3):
        blocks.read(STACK, (expert, expert + 1))
    assert read == [blocks.read(STACK).nbytes]
