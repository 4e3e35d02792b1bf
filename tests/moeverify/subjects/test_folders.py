"""Subjects that take folders: recognised by their parameters, run under all limits, judged by what they wrote."""

import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import moeverify as mv
from moeverify.errors import SubjectError, UsageError
from moeverify.models.zoo import build_zoo
from moeverify.subjects import Pruned, adapt
from moeverify.subjects.faults import all_faults
from moeverify.subjects.faults.spoil_folders import keep_half
from moeverify.subjects.folders import command, takes_folders
from moeverify.subjects.load import subject_kind
from moeverify.suites.properties import PropertyFailed, check_property
from moeverify.verdict import Status
from synthetic_models import Spec

HERE = Path(__file__).parent
SCRIPT = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
from moeverify.subjects.faults.spoil_folders import keep_half
base, out, ratio = sys.argv[1:]
assert ratio == "0.5"
print("kept", keep_half(Path(base), Path(out)))
"""


def prune(base_folder, out_folder, *, pruning_ratio, seed):
    keep_half(base_folder, out_folder)


def rows_exchanged(base_folder, out_folder, *, pruning_ratio, seed):
    from moeverify.subjects.faults.folders import router_rows_exchanged

    router_rows_exchanged.prune(base_folder, out_folder, pruning_ratio=pruning_ratio, seed=seed)


def hangs(base_folder, out_folder, *, pruning_ratio, seed):
    while True:
        pass


def ours(base_folder, out_folder, *, pruning_ratio, seed):
    """Our own pruner, as a program that loads and saves would call it."""
    from transformers import AutoModelForCausalLM

    from moeverify.subjects import prune_moe

    model = AutoModelForCausalLM.from_pretrained(base_folder, attn_implementation="eager")
    inputs = {"input_ids": torch.arange(12).view(2, 6)}
    prune_moe(model, inputs, pruning_ratio=pruning_ratio, seed=seed, round_to=None)
    model.save_pretrained(out_folder)


def spoiled(base_folder, out_folder, *, pruning_ratio, seed):
    ours(base_folder, out_folder, pruning_ratio=pruning_ratio, seed=seed)
    tensors = load_file(out_folder / "model.safetensors")
    name = next(name for name in tensors if "layers" in name and tensors[name].dim() > 1)
    tensors[name] *= 1.5
    save_file(tensors, out_folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    return "test_folders"


def judged(subject, *checks, **more):
    result = mv.verify("zoo:mixtral", subject=subject, checks=checks or None, **more)
    return {v.check: v for v in result.verdicts}


def test_it_is_recognised_by_its_parameters():
    assert takes_folders(prune)
    assert not takes_folders(lambda model, example_inputs, *, pruning_ratio, seed: None)
    assert not takes_folders(len)
    assert takes_folders(command("x {base} {out}"))


def test_a_model_is_pruned_on_disk_and_loaded():
    model = build_zoo("mixtral")
    outcome = adapt(prune)(model, None, pruning_ratio=0.5, seed=0)
    assert isinstance(outcome, Pruned)
    assert outcome.result(model) is outcome.model is not model
    assert outcome.model.config.num_local_experts * 2 == model.config.num_local_experts
    assert (outcome.written.folder / "config.json").is_file()
    place = outcome.written.folder
    del outcome
    assert not place.exists()


def test_a_model_that_cannot_be_saved_and_a_folder_that_is_none_are_refused(tmp_path):
    with pytest.raises(SubjectError, match="has no save_pretrained"):
        adapt(prune)(torch.nn.Linear(2, 2), None, pruning_ratio=0.5, seed=0)
    with pytest.raises(SubjectError, match="no config"):
        adapt(command(f"{sys.executable} -c pass {{base}} {{out}}"))(
            build_zoo("mixtral"), None, pruning_ratio=0.5, seed=0
        )


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("prune {base}", "needs both"),
        ("prune {base} {out} {name}", r"knows no \{name\}"),
        ("prune {base} {out", "write literal braces"),
        ("prune '{base} {out}", "No closing quotation"),
    ],
)
def test_a_template_that_is_none_is_refused(template, words):
    with pytest.raises(UsageError, match=words):
        subject_kind(f"cmd:{template}")


def test_a_command_is_run_without_a_shell(tmp_path):
    script = tmp_path / "show it.py"
    script.write_text("import sys; open(sys.argv[2], 'w').write('|'.join(sys.argv[1:]))")
    command(f"{sys.executable} '{script}' {{base}} {{out}} '$HOME; {{ratio}}' {{{{x}}}} {{seed}}")(
        tmp_path / "a b", tmp_path / "out", pruning_ratio=0.25, seed=3
    )
    assert (tmp_path / "out").read_text() == f"{tmp_path}/a b|{tmp_path}/out|$HOME; 0.25|{{x}}|3"


def test_a_command_that_fails_gives_its_cause(tmp_path):
    failing = command(f"{sys.executable} -c 'raise SystemExit(\"no such layer\")' {{base}} {{out}}")
    with pytest.raises(SubjectError, match="exit status 1: no such layer"):
        failing(tmp_path, tmp_path, pruning_ratio=0.5, seed=0)
    with pytest.raises(UsageError, match=r"has no \{heads\}"):
        failing(tmp_path, tmp_path, pruning_ratio=0.5, seed=0, ratios={"heads": 0.5})
    with pytest.raises(SubjectError, match="cannot be started"):
        command("/no/such/program {base} {out}")(tmp_path, tmp_path, pruning_ratio=0.5, seed=0)


@pytest.mark.slow
def test_a_right_pruner_passes_every_check(module):
    verdicts = judged(f"{module}:prune")
    assert {n: v.message for n, v in verdicts.items() if v.status not in (Status.PASS, Status.SKIP)} == {}
    assert verdicts["reload"].message.startswith("the folder is a pure selection; a fresh process gives the same")
    assert verdicts["masked-equivalence"].status is Status.PASS


@pytest.mark.slow
def test_a_command_line_pruner_is_judged_in_its_own_process(tmp_path):
    script = tmp_path / "prune.py"
    script.write_text(SCRIPT.format(path=[p for p in sys.path if p]))
    subject = f"cmd:{sys.executable} {script} {{base}} {{out}} {{experts}}"
    verdicts = judged(subject, "terminates", "reload", "shapes", ratios={"experts": 0.5})
    assert {v.status for v in verdicts.values()} == {Status.PASS}


@pytest.mark.slow
def test_a_hang_is_a_timeout(module):
    verdicts = judged(f"{module}:hangs", "terminates", timeout=8)
    assert verdicts["terminates"].status is Status.TIMEOUT
    assert "hangs" in verdicts["terminates"].message


@pytest.mark.slow
def test_what_is_wrong_on_disk_fails_with_the_relation(module):
    verdict = judged(f"{module}:rows_exchanged", "reload")["reload"]
    assert verdict.status is Status.FAIL
    assert verdict.message.startswith("router-intact: ")
    assert verdict.evidence["relations"]["inventory"][0] == "pass"


@pytest.mark.slow
@pytest.mark.parametrize("fault", [f for f in all_faults() if f.family == "folders"], ids=lambda f: f.name)
def test_the_faults_are_caught(fault):
    verdicts = judged(f"fault:{fault.name}", *fault.caught_by)
    for check, pattern in fault.caught_by.items():
        assert verdicts[check].status in (Status.FAIL, Status.ERROR)
        assert re.search(pattern, verdicts[check].message), verdicts[check].message


def test_what_was_written_is_judged_in_this_process_too():
    (verdict,) = mv.verify("zoo:mixtral", subject=rows_exchanged, checks=["reload"]).verdicts
    assert verdict.status is Status.FAIL
    assert verdict.message.startswith("router-intact: ")


def test_properties_are_tried_on_it(module):
    for name in ("shapes", "determinism", "masked-equivalence"):
        check_property(name, Spec(), subject=f"{module}:ours", seconds=60)
    with pytest.raises(PropertyFailed):
        check_property("masked-equivalence", Spec(), subject=f"{module}:spoiled", seconds=60)


def test_words_of_the_documentation():
    page = (Path(mv.__file__).parents[1] / "docs/verify-your-pruner.md").read_text("utf-8")
    assert "base_folder, out_folder, *, pruning_ratio, seed" in page
    assert "cmd:python prune.py {base} {out}" in page
