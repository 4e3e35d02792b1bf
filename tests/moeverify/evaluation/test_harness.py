"""lm-eval through our door, on the small model and its local tasks, with no network."""

import pytest
from small_quality import magnitude, pruned, random, score, small, taylor, tokenizer

from moeverify.errors import EvaluationError
from moeverify.evaluation import Evaluation, EvaluationSettings, compare, evaluate

pytest.importorskip("lm_eval", reason="lm-eval is not installed; `tox run -e tests` installs it")


@pytest.fixture(scope="module")
def before():
    return score(small().model, ("small",), limit=40)


def test_the_unpruned_model_beats_chance_by_far(before):
    assert {s.task for s in before.primary} == {"small_add", "small_close", "small_say", "small_shift", "small_sort"}
    for s in before.primary:
        assert s.value > s.chance + 0.4, s.name
        assert s.documents == len(s.values) == 40
    assert before["small_add"].chance == 0.25
    assert before["small_say"].chance == 0.5


def test_the_same_model_again_differs_in_nothing(before):
    again = score(small().model, ("small",), limit=40)
    assert [d.drop for d in compare(before, again)] == [0.0] * len(before.scores)
    assert Evaluation.from_dict(before.to_dict()) == before


def test_shots_are_asked_for_and_recorded():
    settings = EvaluationSettings(("small_say",), num_fewshot=2, limit=10, seed=3)
    with_shots = evaluate(small().model, tokenizer(), settings)
    assert with_shots["small_say"].value > 0.6
    without = evaluate(small().model, tokenizer(), EvaluationSettings(("small_say",), limit=10, seed=3))
    with pytest.raises(EvaluationError, match="num_fewshot was 2 before and is None now"):
        compare(with_shots, without)


@pytest.mark.slow
def test_an_unknown_task_is_one_line():
    with pytest.raises(EvaluationError, match="lm-eval has no task 'no_such_task'"):
        evaluate(small().model, tokenizer(), EvaluationSettings(("small_say", "no_such_task")))


@pytest.mark.slow
def test_a_data_set_that_cannot_be_had_is_one_line(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(EvaluationError, match="data set of hellaswag is neither cached nor on the hub") as error:
        evaluate(small().model, tokenizer(), EvaluationSettings(("hellaswag",), limit=2))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_quality_falls_as_the_ratio_grows():
    means = [score(pruned(ratio)).mean for ratio in (0.5, 0.75, 0.9375)]
    assert means == sorted(means, reverse=True)
    assert means[0] > means[-1] + 0.3


@pytest.mark.slow
@pytest.mark.parametrize("importance", [magnitude, taylor])
def test_a_chosen_half_beats_a_random_half_beyond_noise(importance):
    chosen = score(pruned(0.5, importance))
    for seed in range(3):
        changes = compare(chosen, score(pruned(0.5, random, seed)))
        assert sum(d.drop for d in changes) > 2 * sum(d.stderr**2 for d in changes) ** 0.5
