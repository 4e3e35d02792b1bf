"""Keep maps that a folder claims: forms that are read, and those that are no map."""

import pytest

from moeverify.certification.relations.claimed_map import _by_layer


@pytest.mark.parametrize("data", [{"0": [1, 2]}, [[1, 2]], {"experts": {"layers.0": [1, 2]}}, {"kept": [[1, 2]]}])
def test_forms_of_a_map(data):
    assert _by_layer(data) == {0: [1, 2]}


@pytest.mark.parametrize("data", [{"experts": {"a": [1]}}, {"0": [1.5]}, {"a": 1}, {"0": 1}])
def test_what_is_no_map_is_refused(data):
    with pytest.raises(ValueError, match="no "):
        _by_layer(data)
