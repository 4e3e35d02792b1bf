"""Drawn inputs keep to what the example shows, and the original accepts every one of them."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from moeverify.errors import SourceError
from moeverify.models.drawn import EXAMPLE, Drawer


class Takes(nn.Module):
    """Answers with whatever a function makes of the inputs."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer
        self.words = nn.Embedding(50, 4)

    def forward(self, *args, **kwargs):
        return self.answer(self, *args, **kwargs)


def drawn(answer, example, seeds=range(5), **attributes):
    model = Takes(answer)
    for name, value in attributes.items():
        setattr(model, name, value)
    drawer = Drawer(model, example)
    return drawer, [drawer.draw(seed) for seed in seeds]


def test_fields_keep_to_the_values_of_their_column():
    tables = [nn.Embedding(n, 4) for n in (40, 3)]
    example = torch.stack([torch.arange(8) * 5, torch.arange(8) % 3], 1)
    _, found = drawn(lambda _, x: sum(t(x[:, i]) for i, t in enumerate(tables)), (example,))
    for one in found:
        (values,) = one.inputs
        assert sorted(values[:, 0].tolist()) == sorted(example[:, 0].tolist())
        assert set(values[:, 1].tolist()) <= {0, 1, 2}
    assert any(not torch.equal(one.inputs[0], example) for one in found)


def test_masks_stay_masks_and_lengths_stay_lengths():
    lengths = torch.tensor([7, 4, 2])
    mask = torch.arange(7)[None] >= lengths[:, None]

    def answer(model, ids, mask, lengths):
        assert mask.dtype is torch.bool
        assert int(lengths.max()) == 7
        return model.words(ids).masked_fill(mask[..., None], 0).sum(1) / (~mask).sum(1, keepdim=True)

    example = {"ids": torch.randint(5, 30, (3, 7)), "mask": mask, "lengths": lengths}
    drawer, found = drawn(answer, example)
    assert not drawer.refusals
    rows = {tuple(row) for row in mask.tolist()}
    for one in found:
        assert {tuple(row) for row in one.inputs["mask"].tolist()} <= rows
        assert sorted(one.inputs["lengths"].tolist()) == [2, 4, 7]
        assert 5 <= int(one.inputs["ids"].min()) <= int(one.inputs["ids"].max()) < 30


def test_special_tokens_keep_their_places_and_come_nowhere_else():
    ids = torch.randint(3, 40, (2, 9))
    ids[:, 2:4] = 44
    config = SimpleNamespace(image_token_id=44, text_config=SimpleNamespace(pad_token_id=7, eos_token_id=[8, 9]))
    ids[ids == 7] = 10
    ids[0, 5] = 8
    _, found = drawn(lambda model, input_ids: model.words(input_ids), {"input_ids": ids}, config=config)
    for one in found:
        new = one.inputs["input_ids"]
        assert torch.equal(new == 44, ids == 44)
        assert torch.equal(new == 8, ids == 8)
        assert not ((new == 7) | (new == 9)).sum() > ((ids == 7) | (ids == 9)).sum()
    assert not torch.equal(found[0].inputs["input_ids"], found[1].inputs["input_ids"])


def test_floats_lie_between_those_of_the_example():
    example = torch.rand(4, 6, 5) + 0.01
    drawer, found = drawn(lambda _, x: x.log(), example)
    assert not drawer.refusals
    for one in found:
        assert (one.inputs >= example.amin(0)).all()
        assert (one.inputs <= example.amax(0)).all()
        assert not any(torch.equal(row, other) for row in one.inputs for other in example)


def test_floats_of_one_row_are_those_of_the_example_in_another_order():
    example = torch.randn(1, 30).exp()
    _, found = drawn(lambda _, x: x.log(), example)
    assert all(torch.equal(one.inputs.sort().values, example.sort().values) for one in found)
    assert not torch.equal(found[0].inputs, example)


def test_a_constant_shows_no_range():
    _, found = drawn(
        lambda model, x, ids: (x, model.words(ids)), (torch.zeros(2, 3), torch.zeros(2, 6, dtype=torch.long))
    )
    values, ids = found[0].inputs
    assert values.unique().numel() == 6
    assert ids.unique().numel() > 3


def test_what_the_model_refuses_is_drawn_more_cautiously():
    """A model that checks that its rows add up to one takes mixtures of rows, not of single values."""

    def answer(_, x):
        torch.testing.assert_close(x.sum(1), torch.ones(len(x)))
        return x

    example = torch.rand(6, 4).softmax(1)
    drawer, found = drawn(answer, example)
    assert {one.manner for one in found} == {"rows"}
    assert "AssertionError" in drawer.refusals["values within their columns"]
    assert not any(torch.equal(row, other) for row in found[0].inputs for other in example)


def test_a_model_that_takes_nothing_else_gets_the_example():
    example = torch.randn(3, 4)

    def answer(_, x):
        return x if torch.equal(x, example) else x / 0

    drawer, found = drawn(answer, example)
    assert {one.manner for one in found} == {EXAMPLE}
    assert all(torch.equal(one.inputs, example) for one in found)
    assert "NaN or infinity in the output" in drawer.refusals.values()


def test_infinity_in_the_answer_to_the_example_is_no_reason_to_refuse():
    drawer, found = drawn(lambda _, x: torch.cat([x, x.new_full((3, 1), float("-inf"))], 1), torch.randn(3, 4))
    assert not drawer.refusals
    assert found[0].manner != EXAMPLE


def test_a_model_that_does_not_run_on_its_example_is_refused_with_the_error():
    def answer(_, x):
        raise ValueError("no such input")

    with pytest.raises(SourceError, match="the original does not run on its own example inputs"):
        drawn(answer, torch.randn(3, 4))


def test_drawing_leaves_buffers_and_generators_alone():
    model = Takes(lambda self, x: self.count.add_(1) + x + torch.rand(()))
    model.register_buffer("count", torch.zeros(()))
    before = torch.get_rng_state()
    Drawer(model, torch.randn(3, 4, generator=torch.Generator().manual_seed(0))).draw(1)
    assert float(model.count) == 0
    assert torch.equal(torch.get_rng_state(), before)


def test_one_tensor_given_twice_stays_one():
    ids = torch.randint(0, 50, (2, 5))
    _, found = drawn(lambda model, input_ids, labels: model.words(input_ids), {"input_ids": ids, "labels": ids})
    assert found[0].inputs["input_ids"] is found[0].inputs["labels"]
