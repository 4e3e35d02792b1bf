"""Right and wrong folders of other people's tools: none of the wrong ones passes, none of the right ones fails."""

from operator import attrgetter

import pytest
from everyday import everyday
from pruned_folders import RIGHT, WRONG, duplicate_names, write

from moeverify.certification.certify import examine
from moeverify.verdict import Status

# In the everyday suite, one of most families; the others are slow together.
EVERYDAY_RIGHT = {
    "experts-shuffled-sharded-hy_v3",
    "channels-interleaved-gpt_oss",
    "channels-inside-heads-in-another-order-qwen3_moe",
    "heads-inside-of-groups-qwen3_moe",
    "vocabulary-cut-gpt_oss",
    "cast-nemotron_h",
    "tied-head-stored-apart-qwen3_moe",
    "layers-of-each-kind-llama4_text",
}
EVERYDAY_WRONG = {
    "router-permuted",
    "heads-of-one-group-spread-over-two",
    "vocabulary-of-other-tokens-in-the-head",
    "e_score_correction_bias-of-the-first-experts-ernie4_5_moe",
    "expert-rescaled",
    "expert-without-up",
    "groups-mixed",
    "count-stale",
    "dense-layer-count-stale",
    "final-norm-altered",
    "index-stale",
    "layers-in-another-order",
    "experts-of-another-layer",
    "window-as-small-as-the-count",
}
NAME = attrgetter("name")


def test_the_catalogue_is_large_enough():
    assert len(RIGHT) >= 30
    assert len(WRONG) >= 60
    assert len({case.model_type for case in (*RIGHT, *WRONG)}) >= 6
    assert duplicate_names() == []


@pytest.mark.parametrize("case", everyday(RIGHT, EVERYDAY_RIGHT, NAME), ids=NAME)
def test_a_right_folder_does_not_fail(case, tmp_path):
    found = examine(*write(case, tmp_path))
    assert [(v.check, v.message) for v in found.verdicts if v.status is Status.FAIL] == []
    assert any(v.status is Status.PASS for v in found.verdicts)


@pytest.mark.parametrize("case", everyday(WRONG, EVERYDAY_WRONG, NAME), ids=NAME)
def test_a_wrong_folder_fails_with_its_cause(case, tmp_path):
    found = examine(*write(case, tmp_path))
    failed = {v.check: v.message for v in found.verdicts if v.status is Status.FAIL}
    assert case.relation in failed, {v.check: (v.status.value, v.message) for v in found.verdicts}
    assert case.words in failed[case.relation]
    assert next(iter(failed)) == case.relation, failed  # the cause comes first
