import numpy as np

from moeverify.base.ranges import collapse, positions_to_dict, spans


def test_collapse_groups_what_is_alike():
    found = collapse(
        [("layers.0.mlp", 4), ("layers.1.mlp", 4), ("layers.2.mlp", 5), ("conv1d.weight", 4), ("x[3].y", 1)]
    )
    assert found == [
        ("layers.{0-1}.mlp", 4, ["layers.0.mlp", "layers.1.mlp"]),
        ("layers.2.mlp", 5, ["layers.2.mlp"]),
        ("conv1d.weight", 4, ["conv1d.weight"]),  # the number is part of a name
        ("x[3].y", 1, ["x[3].y"]),
    ]


def test_two_numbers_are_ranges_of_their_own():
    (found,) = collapse((f"layers.{i}.experts.{j}", 0) for i in (1, 3) for j in range(8))
    assert found[0] == "layers.{1,3}.experts.{0-7}"


def test_runs_of_numbers_are_written_as_spans():
    assert spans([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
    assert spans([]) == ""


def test_positions_as_plain_data():
    heads = np.arange(24).reshape(4, 6)
    assert positions_to_dict(heads) == {"units": 4, "first": "0-5", "step": 6}
    gate_up = np.array([[0, 3], [1, 4], [2, 5]])
    assert positions_to_dict(gate_up) == {"units": 3, "first": "0,3", "step": 1}
    assert positions_to_dict(np.array([[0, 5], [1, 9]])) == {"units": 2, "rows": ["0,5", "1,9"]}
