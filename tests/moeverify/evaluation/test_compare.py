"""What may be compared, and the standard error of a difference."""

import math
from dataclasses import replace

import pytest

from moeverify.base.options import written_words
from moeverify.errors import EvaluationError, UsageError
from moeverify.evaluation import Evaluation, EvaluationSettings, QualitySettings, Score, compare

SETTINGS = EvaluationSettings(("t",), num_fewshot=0, limit=4, seed=1)


def evaluation(values=(1.0, 1.0, 1.0, 0.0), **changes):
    mean = sum(values) / len(values)
    score = Score("t", "acc", mean, 0.1, True, len(values), 0.25, tuple(values))
    return replace(Evaluation(SETTINGS, {"lm_eval": "1", "t": "1.0"}, {"t": "abc"}, (score,)), **changes)


def test_the_standard_error_is_that_of_paired_differences():
    (change,) = compare(evaluation(), evaluation((1.0, 0.0, 0.0, 0.0)))
    assert change.drop == change.loss == 0.5
    assert change.stderr == pytest.approx(math.sqrt(1 / 3) / 2)  # differences 0 1 1 0
    assert compare(evaluation(), evaluation())[0].stderr == 0


def test_without_single_values_errors_add_in_quadrature_and_a_perplexity_is_relative():
    def one(value, error):
        score = Score("t", "perplexity", value, error, False, 4)
        return evaluation(scores=(score,))

    (change,) = compare(one(10.0, 3.0), one(15.0, 4.0))
    assert (change.drop, change.loss, change.stderr) == (5.0, 0.5, 5.0)
    assert compare(one(10.0, None), one(15.0, 4.0))[0].stderr is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"settings": replace(SETTINGS, seed=2)}, "seed was 1 before and is 2"),
        ({"settings": replace(SETTINGS, limit=None)}, "limit was 4 before and is None"),
        ({"settings": replace(SETTINGS, num_fewshot=5)}, "num_fewshot"),
        ({"settings": replace(SETTINGS, tasks=("t", "u"))}, "tasks"),
        ({"versions": {"lm_eval": "2", "t": "1.0"}}, "version of lm_eval was 1 before and is 2"),
        ({"versions": {"lm_eval": "1", "t": "2.0"}}, "version of t"),
        ({"documents_hash": {"t": "xyz"}}, "documents of t"),
        ({"scores": ()}, "only one of the evaluations has t/acc"),
    ],
)
def test_anything_but_the_model_differing_is_refused(changes, named):
    with pytest.raises(EvaluationError, match=named):
        compare(evaluation(), evaluation(**changes))


def test_a_batch_size_may_differ():
    assert compare(evaluation(), evaluation(settings=replace(SETTINGS, batch_size=1)))


def test_evaluations_are_written_and_read_and_broken_files_refused(tmp_path):
    path = evaluation().write(tmp_path / "before.json")
    assert Evaluation.read(path) == evaluation()
    path.write_text('{"settings": {}}')
    with pytest.raises(EvaluationError, match="not an evaluation"):
        Evaluation.read(path)
    path.write_text("no json")
    with pytest.raises(EvaluationError, match="not valid JSON"):
        Evaluation.read(path)
    with pytest.raises(EvaluationError, match="cannot read"):
        Evaluation.read(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tasks": ("t",), "limit": 0}, "limit"),
        ({"tasks": ("t",), "num_fewshot": -1}, "few-shot"),
        ({"tasks": ("t",), "batch_size": 0}, "batch size"),
        ({"max_drop": 1.5}, "between 0 and 1"),
        ({"curve": (0.5, 1.0)}, "strictly between 0 and 1"),
    ],
)
def test_settings_that_cannot_be_meant(settings, said):
    with pytest.raises(UsageError, match=said):
        QualitySettings(**settings)


def test_settings_travel_as_json_and_as_options():
    settings = QualitySettings(("a", "b"), limit=0.5, max_drop=0.1, curve=(0.25,))
    assert QualitySettings.from_dict({**settings.__dict__, "tasks": ["a", "b"], "curve": [0.25]}) == settings
    assert written_words(settings) == ["--tasks", "a,b", "--limit", "0.5", "--max-drop", "0.1", "--curve", "0.25"]
    assert written_words(QualitySettings()) == []
    assert QualitySettings().or_local(("small",)).tasks == ("small",)
    assert settings.or_local(("small",)) is settings
