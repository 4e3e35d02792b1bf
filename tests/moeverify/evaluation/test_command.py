"""``moeverify evaluate``: scores to a file, and another model against it."""

import pytest

from moeverify.cli import main
from moeverify.evaluation import Evaluation
from moeverify.pruning.checkpoint.checkpoint import prune_checkpoint

pytest.importorskip("lm_eval", reason="lm-eval is not installed; `tox run -e tests` installs it")


def run(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, words)))
    shown = capsys.readouterr()
    return stop.value.code, shown.out, shown.err


@pytest.mark.slow
def test_before_and_after_in_two_processes(tmp_path, capsys):
    before = tmp_path / "before.json"
    code, out, _ = run(capsys, "evaluate", "small", "--tasks", "small_say", "--limit", 20, "--out", before)
    assert code == 0
    assert "small_say" in out
    assert Evaluation.read(before)["small_say"].value == 1.0
    prune_checkpoint("small", tmp_path / "pruned", pruning_ratio=0.5, ratios={"hidden": 0, "heads": 0})
    code, out, _ = run(capsys, "evaluate", tmp_path / "pruned", "--against", before)
    assert code == 0
    assert "drop" in out
    code, _, err = run(capsys, "evaluate", "small", "--tasks", "small_say", "--limit", 10, "--against", before)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "limit was 20.0 before and is 10.0 now" in err


def test_what_cannot_be_evaluated_is_one_line(capsys, tmp_path):
    code, _, err = run(capsys, "evaluate", "zoo:mixtral", "--tasks", "small_say")
    assert (code, "has no tokenizer" in err) == (2, True)
    code, _, err = run(capsys, "evaluate", "small")
    assert (code, "no lm-eval task is named" in err) == (2, True)
    code, _, err = run(capsys, "evaluate", "small", "--against", tmp_path / "none.json")
    assert (code, "cannot read" in err) == (2, True)
