"""Which attributes are sizes, and how they are set and put back."""

import pytest
from sized_nets import Attention, FrozenSettings, Namespace
from torch import nn

from moeverify.errors import PruningRefused
from moeverify.pruning.attributes.change import AttributeChange, set_attributes
from moeverify.pruning.attributes.slots import Slot, slots_of


def test_every_attribute_is_put_back_if_one_cannot_be_set():
    class Guarded(nn.Module):
        def __setattr__(self, name, value):
            if name == "guarded" and hasattr(self, "guarded"):
                raise RuntimeError("a size for ever")
            super().__setattr__(name, value)

    module = Guarded()
    module.guarded, module.sizes, module.frozen = 4, [3, (8, 2)], FrozenSettings()
    changes = [
        AttributeChange(Slot("", ("sizes", 1, 0)), 8, 6),
        AttributeChange(Slot("", ("frozen", "width")), 24, 12),
        AttributeChange(Slot("", ("guarded",)), 4, 2),
    ]
    with pytest.raises(PruningRefused, match=r"guarded cannot be set to 2 .*a size for ever"):
        set_attributes(module, changes)
    assert (module.sizes, module.frozen.width) == ([3, (8, 2)], 24)
    undo = set_attributes(module, changes[:2])
    assert (module.sizes, module.frozen.width) == ([3, (6, 2)], 12)
    undo()
    assert (module.sizes, module.frozen.width) == ([3, (8, 2)], 24)


def test_properties_and_layers_of_torch_are_no_slots():
    class Owner(nn.Module):
        shared = 5

        def __init__(self):
            super().__init__()
            self.linear, self.flag = nn.Linear(3, 4), True

        @property
        def computed(self):
            return 7

    assert [(str(slot), value) for slot, value in slots_of(Owner())] == [("shared", 5)]


class Recipes(nn.Module):
    """A layer that keeps, by the number of dimensions, how it moves them: results of its own, no settings."""

    def __init__(self, recipes):
        super().__init__()
        self._recipes = recipes

    def forward(self, x):
        return x.permute(*self._recipes[x.dim()])


def test_results_that_a_layer_keeps_by_number_are_no_sizes():
    shared = {3: (0, 2, 1), 4: (0, 3, 1, 2)}
    slots = [slot for slot, _ in slots_of(nn.Sequential(Recipes(shared), Recipes(shared)))]
    assert not [slot for slot in slots if "_recipes" in slot.steps]
    named = Recipes({"a": 3})
    assert [str(slot) for slot, _ in slots_of(named)] == ["_recipes.a"]


def test_a_class_of_settings_stays_as_it_is_for_others():
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.settings = Namespace

    model = Holder()
    undo = set_attributes(model, [AttributeChange(Slot("", ("settings", "width")), 24, 12)])
    assert (model.settings.width, model.settings.heads, Namespace.width) == (12, 4, 24)
    undo()
    assert model.settings is Namespace


def test_classes_that_do_something_hold_no_sizes():
    class Acts:
        width = 24

        def double(self):
            return 2 * self.width

    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.kind, self.block, self.good = Acts, Attention, Namespace

    assert {slot.steps[0] for slot, _ in slots_of(Holder())} == {"good"}
