"""The benchmark of planning runs and prints what it promises."""

import pytest

from benchmarks.planning import main, measure, table


def test_a_small_model_is_measured():
    point = measure("unknown", 2, 4)
    assert {"forward", "everyone", "at_once", "trace", "scores", "first", "later", "other"} <= point.keys()
    text = table([point], [{"command": "--help", "seconds": 0.2, "libraries": 0.1}])
    assert "| unknown | 2 x 4 |" in text
    assert "| `moeverify --help` | 0.20 | 0.10 |" in text


@pytest.mark.slow
def test_points_run_in_processes_of_their_own(capsys, tmp_path):
    main(["--layers", "2", "--experts", "4", "--quick", "--output", str(tmp_path)])
    assert "| magnitude | 2 x 4 |" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
