"""``moeverify prune --ratio experts=R``: calibrated once, statistics used again, refusals in one line."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from moeverify.cli import main
from moeverify.models.zoo import build_zoo


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("base") / "model"
    build_zoo("mixtral").save_pretrained(folder)
    letters = {letter: number for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz <>")}
    tokenizer = Tokenizer(models.WordLevel(letters, unk_token="<"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<").save_pretrained(folder)
    (folder.parent / "text.txt").write_text("the quick brown fox jumps over the lazy dog " * 40)
    return folder


def prune(base, *words):
    with pytest.raises(SystemExit) as stopped:
        main(["prune", str(base), "--calibration-length", "16", "--calibration-samples", "8", *words])
    return stopped.value.code or 0


def test_statistics_of_one_pass_serve_other_ratios(base, tmp_path, capsys):
    data, saved = str(base.parent / "text.txt"), str(tmp_path / "statistics.json")
    half, again, quarter = (str(tmp_path / name) for name in ("half", "again", "quarter"))
    words = ["--ratio", "experts=0.5", "--calibration", data, "--save-statistics", saved, "--save-model", half]
    assert prune(base, *words) == 0
    assert prune(base, "--ratio", "experts=0.5", "--statistics", saved, "--save-model", again) == 0
    assert prune(base, "--ratio", "experts=0.25", "--statistics", saved, "--save-model", quarter) == 0
    plans = [json.loads((tmp_path / name / "pruning_plan.json").read_text()) for name in ("half", "again", "quarter")]
    assert plans[0]["experts"] == plans[1]["experts"]
    assert {cut["after"] for cut in plans[2]["cuts"]} == {3}
    assert {cut["role"] for cut in plans[0]["cuts"]} == {"experts"}
    settings = json.loads((tmp_path / "statistics.json").read_text())["settings"]
    assert (settings["samples"], settings["length"]) == (8, 16)
    model = AutoModelForCausalLM.from_pretrained(half)
    assert model.config.num_local_experts == 2
    with torch.no_grad():
        assert model(torch.arange(8)[None]).logits.isfinite().all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ratio", "experts=0.75"], "the nearest legal numbers are 2 (a ratio of 0.5)"),
        (["--ratio", "experts=0.5", "--expert-criterion", "reap"], "reap ranks by data; give it with --calibration"),
        (["--expert-criterion", "aimer"], "aimer ranks whole experts; say how many go: --ratio experts=0.5"),
        (["--ratio", "experts=0.5", "--expert-criterion", "rep"], "unknown expert criterion 'rep'"),
        (["--ratio", "experts=0.5", "--save-statistics", "s.json"], "--save-statistics needs --calibration FILE"),
        (["--ratio", "experts=0.5", "--calibration", "nowhere.txt"], "--calibration nowhere.txt: there is no such"),
    ],
)
def test_what_cannot_be_done_is_one_line(base, tmp_path, capsys, words, message):
    assert prune(base, *words, "--save-model", str(tmp_path / "out")) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
