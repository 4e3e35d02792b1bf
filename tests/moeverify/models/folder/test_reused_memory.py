"""Memory of tensors is used again when nothing lies on it, and never before."""

import torch

from moeverify.models.folder.memory import Memory


def filled(memory, shape, value, dtype=torch.bfloat16):
    made = memory.empty(shape, dtype)
    made.fill_(value)
    return made


def test_what_is_free_is_used_again():
    memory = Memory()
    first = filled(memory, (4, 8), 1.0)
    place = first.data_ptr()
    del first
    again = filled(memory, (8, 4), 2.0)
    assert again.data_ptr() == place
    assert memory.empty((2, 8), torch.float32).data_ptr() != place  # as many bytes, but not free


def test_a_view_keeps_its_values():
    memory = Memory()
    view = filled(memory, (4, 8), 1.0)[2:].t()
    for value in (2.0, 3.0):
        filled(memory, (4, 8), value)
    assert view.eq(1.0).all()


def test_other_sizes_are_given_back():
    memory = Memory()
    held, gone = filled(memory, (4, 8), 1.0), filled(memory, (2, 8), 1.0)
    del gone
    memory.empty((3, 8), torch.float32)
    assert sorted(len(buffer.memory) for buffer in memory._buffers) == [64, 96]
    memory.give_back()
    assert [len(buffer.memory) for buffer in memory._buffers] == [64]
    assert held.eq(1.0).all()


def test_a_tensor_without_elements():
    assert Memory().empty((0, 3), torch.float32).shape == (0, 3)
