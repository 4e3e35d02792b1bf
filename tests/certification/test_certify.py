"""The doors: result, command line, keep map as a plan, report, fixture; hostile folders never crash it."""

import json
import random
import re
import shlex
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch
from foundry import Draft, edit_config
from safetensors.torch import load_file

import moeverify as mv
from moeverify.cli.app import main
from moeverify.errors import PlanError, SourceError, UsageError
from moeverify.verdict import Status

PACKAGE = Path(mv.__file__).parent
KEPT = [1, 2, 4, 7]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    base = Draft.of("qwen3_moe")
    base.write(folder / "base", listed=True)
    own = [list(range(e, e + 16)) for e in range(8)]
    draft = base.copy().keep_channels(own, 32).set(moe_intermediate_size=16)
    draft.keep_experts(KEPT, count="num_local_experts").write(folder / "pruned", listed=True)
    return folder


@pytest.fixture(scope="module")
def result(pair):
    return mv.certify(pair / "base", pair / "pruned")


def command(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["certify", *map(str, arguments)])
    return ended.value.code, capsys.readouterr()


def test_a_result_like_that_of_a_verification(result):
    assert result.ok
    assert result.exit_code == 0
    assert result.headline == "pure selection"
    assert {v.check: v.status.value for v in result.verdicts if v.status is not Status.PASS} == {"claimed-map": "skip"}
    assert [experts.tolist() for experts in result.keep_map.experts.values()] == [KEPT, KEPT]
    assert mv.VerificationResult.from_json(result.to_json()).ok


def test_the_report_draws_what_stayed(result, tmp_path):
    page = result.write(tmp_path).read_text("utf-8")
    assert "What stayed" in page
    picture = result.cases[0].facts["kept_picture"]
    drawn = ET.fromstring(picture)
    words = [e.text for e in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert words.count("4 of 8") == 2
    assert words.count("16 of 32") == 2
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["cases"][0]["facts"]["kept"]["experts"][0]["kept"] == KEPT


def test_the_keep_map_is_a_plan_that_makes_the_folder_again(result, pair, tmp_path):
    from moeverify.pruning.checkpoint.checkpoint import apply_plan_file

    plan = result.write_keep_map(tmp_path / "plan.json")
    apply_plan_file(plan, str(pair / "base"), tmp_path / "again")
    again, wanted = (load_file(f / "model.safetensors") for f in (tmp_path / "again", pair / "pruned"))
    assert again.keys() == wanted.keys()
    assert all(torch.equal(again[name], wanted[name]) for name in wanted)
    assert mv.certify(pair / "base", tmp_path / "again", oracle="none").headline == "pure selection"


def test_no_plan_for_what_is_no_selection(pair, tmp_path):
    with pytest.raises(PlanError, match="nothing was removed"):
        mv.certify(pair / "base", pair / "base", oracle="none").write_keep_map(tmp_path / "plan.json")
    assert not (tmp_path / "plan.json").exists()


def test_the_command_writes_verdicts_keep_map_and_report(pair, capsys, tmp_path):
    code, said = command(
        capsys,
        pair / "base",
        pair / "pruned",
        "--oracle",
        "none",
        "--keep_map",
        tmp_path / "k.json",
        "--report",
        tmp_path,
    )
    assert code == 0
    assert "pure selection" in said.out
    assert json.loads((tmp_path / "k.json").read_text())["cuts"][0]["role"] == "experts"
    assert (tmp_path / "report.html").is_file()
    code, said = command(capsys, pair / "base", pair / "pruned", "--oracle", "none", "--strict", "--json", "-")
    assert code == 1  # two relations need the models to run
    assert json.loads(said.out)["summary"]["inconclusive"] == 2


def test_a_failure_comes_first_and_exits_with_1(pair, capsys, tmp_path):
    folder = shutil.copytree(pair / "pruned", tmp_path / "pruned")
    edit_config(folder, num_experts_per_tok=9)
    code, said = command(capsys, pair / "base", folder, "--oracle", "none")
    assert code == 1
    assert said.out.startswith("✗ ")
    assert "9" in said.out.splitlines()[0]


def test_the_reproduce_line_runs_as_it_stands(pair, capsys, tmp_path):
    folder = shutil.copytree(pair / "pruned", tmp_path / "two words; $(true)")
    edit_config(folder, num_experts_per_tok=9)
    result = mv.certify(pair / "base", folder, oracle="none", seed=3, device="auto")
    line = shlex.split(result.verdicts[0].reproduce)
    assert line[:2] == ["moeverify", "certify"]
    assert line[4:] == ["--oracle", "none", "--device", "auto", "--seed", "3"]
    code, said = command(capsys, *line[2:], "--json", "-")
    assert code == 1
    again = {v["check"]: v["status"] for v in json.loads(said.out)["verdicts"]}
    assert again == {v.check: v.status.value for v in result.verdicts}


def test_wrong_usage_exits_with_2(pair, capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    for arguments, words in [
        ((pair / "base", tmp_path / "none"), "no such folder"),
        ((pair / "base", tmp_path / "empty"), "holds no"),
        ((tmp_path / "empty", pair / "pruned"), "holds no"),
        ((pair / "base", pair / "pruned", "--oracle", "half"), "unknown oracle"),
    ]:
        code, said = command(capsys, *arguments)
        assert code == 2
        assert words in said.err.splitlines()[-1]


def test_a_damaged_base_is_no_verdict_on_the_pruned_folder(pair, tmp_path):
    base = shutil.copytree(pair / "base", tmp_path / "base")
    (base / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes()[:-4])
    with pytest.raises(SourceError, match=r"the base .* is damaged"):
        mv.certify(base, pair / "pruned")
    with pytest.raises(UsageError, match="oracle"):
        mv.certify(pair / "base", pair / "pruned", oracle="some")


DAMAGE = [
    ("[1, 2]", "config.json is no JSON object"),
    ("[" * 5000 + "]" * 5000, "is nested deeper than 100 levels"),
    ("{nope", "is not valid JSON"),
    (None, "config.json is missing"),
]


@pytest.mark.parametrize(("text", "words"), DAMAGE, ids=["list", "deep", "no-json", "missing"])
def test_a_damaged_pruned_folder_fails_and_a_damaged_base_is_bad_input(pair, capsys, tmp_path, text, words):
    """The pruned folder is what is judged: exit 1. Without a base there is nothing to judge by: exit 2."""
    for side, ends in (("pruned", 1), ("base", 2)):
        folder = shutil.copytree(pair / side, tmp_path / side)
        (folder / "config.json").unlink()
        if text is not None:
            (folder / "config.json").write_text(text)
        sides = {"base": pair / "base", "pruned": pair / "pruned", side: folder}
        code, said = command(capsys, sides["base"], sides["pruned"], "--oracle", "none")
        assert code == ends
        line = said.out.splitlines()[0] if ends == 1 else said.err.splitlines()[-1]
        assert words in line
        assert "model_type" not in said.out + said.err


def test_a_damaged_index_is_judged_alike(pair, capsys, tmp_path):
    index = json.dumps({"weight_map": {"model.norm.weight": "gone.safetensors"}})
    for side, ends in (("pruned", 1), ("base", 2)):
        folder = shutil.copytree(pair / side, tmp_path / side)
        (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
        (folder / "model.safetensors.index.json").write_text(index)
        sides = {"base": pair / "base", "pruned": pair / "pruned", side: folder}
        code, said = command(capsys, sides["base"], sides["pruned"], "--oracle", "none")
        assert code == ends
        assert "gone.safetensors" in said.out + said.err


@pytest.mark.parametrize("all_of_them", [False, True])
def test_missing_shards_fail_whether_one_is_gone_or_all(pair, capsys, tmp_path, all_of_them):
    for side, ends in (("pruned", 1), ("base", 2)):
        folder = tmp_path / side
        draft = Draft.of("qwen3_moe")
        (draft if side == "base" else draft.keep_experts(KEPT)).write(folder, shards="60KB")
        shards = sorted(folder.glob("*.safetensors"))
        for shard in shards if all_of_them else shards[:1]:
            shard.unlink()
        sides = {"base": pair / "base", "pruned": pair / "pruned", side: folder}
        code, said = command(capsys, sides["base"], sides["pruned"], "--oracle", "none")
        assert code == ends
        line = said.out.splitlines()[0] if ends == 1 else said.err.splitlines()[-1]
        assert f"{shards[0].name} is named in model.safetensors.index.json but missing" in line
        assert not (all_of_them and "pure selection" in said.out)  # nothing was there to compare


def test_code_beside_the_weights_is_not_run_and_not_judged(pair, tmp_path):
    folder = shutil.copytree(pair / "pruned", tmp_path / "pruned")
    edit_config(folder, model_type="of_its_own", auto_map={"AutoConfig": "code.Config"})
    found = {v.check: v for v in mv.certify(pair / "base", folder, oracle="none").verdicts}
    assert not any(v.status is Status.FAIL for v in found.values())
    assert "Python code beside the weights" in found["loads-whole"].message


def test_folders_whose_values_cannot_be_compared(pair, tmp_path):
    quantised = shutil.copytree(pair / "pruned", tmp_path / "quantised")
    edit_config(quantised, quantization_config={"quant_method": "fp8"})
    other = Draft.of("mixtral").write(tmp_path / "other")
    for folder, words in [(quantised, "is quantised"), (other, "is a mixtral, the base a qwen3_moe")]:
        found = {v.check: v for v in mv.certify(pair / "base", folder, oracle="none").verdicts}
        assert found["selection"].status is Status.INCONCLUSIVE
        assert words in found["selection"].message


def test_it_imports_nothing_of_the_pruner():
    files = [f for room in ("certification", "checks/evidence") for f in (PACKAGE / room).rglob("*.py")]
    assert len(files) > 30
    assert [f.name for f in files if re.search(r"(from|import) moeverify\.pruning", f.read_text("utf-8"))] == []


def test_the_fixture_returns_or_fails_with_the_cause(certify_pruning, pair):
    assert certify_pruning(pair / "base", pair / "pruned", oracle="none").headline == "pure selection"
    with pytest.raises(pytest.fail.Exception, match="may be exchanged"):
        certify_pruning(pair / "pruned", pair / "base", oracle="none")


SPOILED = (None, -1, 0, 10**12, "x", [], {}, 1.5, True, float("inf"))


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 12))])
def test_hostile_folders_get_verdicts_not_crashes(pair, tmp_path, seed):
    chance = random.Random(seed)
    folder = shutil.copytree(pair / "pruned", tmp_path / "pruned")
    if seed % 2:
        file = folder / "model.safetensors"
        data = bytearray(file.read_bytes())
        length = int.from_bytes(data[:8], "little")
        for _ in range(4):
            data[chance.randrange(8 + length)] = chance.randrange(256)
        file.write_bytes(data)
    else:
        config = json.loads((folder / "config.json").read_text())
        for key in chance.sample(sorted(config), 3):
            config[key] = chance.choice(SPOILED)
        (folder / "config.json").write_text(json.dumps(config))
    try:
        found = mv.certify(pair / "base", folder, oracle="none")
    except SourceError:
        return
    assert all("\n" not in v.message for v in found.verdicts)
    if seed % 2:
        assert not found.ok
