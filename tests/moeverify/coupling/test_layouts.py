"""Listed and fused experts have the same classes: one committed structure, held by every transformers release.

Transformers 5 keeps the experts of a layer in one parameter, 4.57 as modules of a list. This file runs under both
(``tox run -e transformers-4.57``).
"""

import json

import pytest
import transformers
from class_structure import COMMITTED, describe

from moeverify.models.zoo import zoo_types

OLD = transformers.__version__.startswith("4.")
STRUCTURES = json.loads(COMMITTED.read_text("utf-8"))


@pytest.mark.parametrize("model_type", STRUCTURES)
def test_classes_by_role(model_type):
    assert describe(model_type) == STRUCTURES[model_type]
    assert not STRUCTURES[model_type]["untouched"]
    assert STRUCTURES[model_type]["classes"]["routed_experts"]


@pytest.mark.skipif(not OLD, reason="is about the older release; `tox run -e transformers-4.57` runs it")
def test_every_type_of_the_older_release_is_compared():
    # Shrunken with entries that only transformers 5 has, or that fail in 4.57 on a processor.
    apart = {"dbrx", "doge", "granitemoehybrid", "jamba"}
    assert set(zoo_types()) - apart == set(STRUCTURES)
