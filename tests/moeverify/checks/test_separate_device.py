"""Every check, every importance and certification's proof on a device that refuses to mix with the CPU, as a GPU does.

Each run is a process of its own, since a device is registered for good. ``reload`` is left out: its own fresh process
has no such device. ``quality`` is left out, too: it is lm-eval's.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from moeverify.checks import default_names
from moeverify.pruning.choice.importances import IMPORTANCES

ROOT = Path(__file__).parents[3]
SUPPORT = ROOT / "tests" / "support"
LEFT_OUT = {"reload", "quality"}
TOO_OLD = "this torch cannot register a device from Python; `tox run -e tests` has one that can"


def run(*words):
    pytest.importorskip("torch.utils.backend_registration", reason=TOO_OLD)
    done = subprocess.run(
        [sys.executable, str(SUPPORT / "on_separate_device.py"), *words],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    if done.returncode == 77:
        pytest.skip(TOO_OLD)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_device_refuses_what_cuda_refuses():
    answers = run("refusals")
    allowed = {"same device", "scalar of the CPU", "indices of the CPU", "copies"}
    assert {name for name, refused in answers.items() if not refused} == allowed


def test_a_model_on_two_devices_is_pruned_where_its_parts_lie():
    found = run("two devices")
    assert found["devices"] == ["cpu", "separate"]
    assert found["kept devices"]
    assert found["same output"]
    assert found["cuts"][0] == found["cuts"][1]
    assert any(name.startswith("routed_experts") for name in found["cuts"][1])
    assert found["sizes"][0] == found["sizes"][1]
    assert found["left alone"] == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("source", ["zoo:mixtral", pytest.param("synthetic:fairseq", marks=pytest.mark.nightly)])
def test_every_check_passes_on_a_separate_device(source):
    found = run("checks", source)
    assert {name: said for name, said in found.items() if not said.startswith(("pass", "skip"))} == {}
    assert set(found) == set(default_names()) - LEFT_OUT
    assert sum(said.startswith("pass") for said in found.values()) >= 12


@pytest.mark.slow
@pytest.mark.parametrize("source", ["zoo:mixtral", pytest.param("synthetic:fairseq", marks=pytest.mark.nightly)])
def test_every_importance_ranks_on_a_separate_device(source):
    found = run("importances", source)
    assert set(found) == {*IMPORTANCES, "routing"} - {"camera"}
    assert all(after < before for before, after in found.values())


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["calibration", "couplings", "expert_criteria", "full_model", "groups", "planning"])
def test_benchmarks_run_where_the_model_lies(name):
    found = run("benchmark", name)
    assert found["wrong"] == {}
    assert found["measured"]
    assert name != "full_model" or found["checks"] == 5


ELSEWHERE = "commands in processes of their own, with CPU models or folders"
SAME_CHECKS = "runs `verify`, whose checks run on the device above"
NOT_THERE = {
    "certify": ELSEWHERE,
    "certify_zoo": ELSEWHERE,
    "executor": ELSEWHERE,
    "experts": SAME_CHECKS,
    "gpu": ELSEWHERE,
    "importance": "lm-eval; its importances run on the device above",
    "judge": ELSEWHERE,
    "memory": "resident memory of the process",
    "served": "engines' own processes",
    "streaming": ELSEWHERE,
    "wild": SAME_CHECKS,
    "zoo": SAME_CHECKS,
}


def test_every_benchmark_runs_there_or_says_why_not():
    commands = {
        path.stem for path in (ROOT / "benchmarks").glob("*.py") if '__name__ == "__main__"' in path.read_text()
    }
    documents = {"full_model_docs"}  # draws what others have measured
    marks = next(m for m in test_benchmarks_run_where_the_model_lies.pytestmark if m.name == "parametrize")
    assert commands - documents == {*marks.args[1], *NOT_THERE}


@pytest.mark.nightly
def test_certification_runs_both_models_there():
    """Channels, experts and hidden channels; a table of expert ids; dropped layers with biases; a cast; a fault."""
    right = ["everything-at-once-qwen3_moe", "id-table-remapped-deepseek_v4", "layers-and-their-kinds-gpt_oss"]
    right.append("cast-qwen3_moe")
    found = run("proofs", *right, "router-permuted")
    assert set(found) == {f"{name} {way}" for name in (*right, "router-permuted") for way in ("whole", "streamed")}
    assert all(proof["effect"] > 0.1 and proof["leak"] < 1e-9 for proof in found.values())
    for name, proof in found.items():
        assert (proof["error"] < 1e-9) == (name.rpartition(" ")[0] in right), (name, proof)


@pytest.mark.slow
def test_a_check_that_mixes_devices_is_found():
    """The device does find the fault that it is for: a mixture drawn on the CPU."""
    said = run("mixing", "zoo:mixtral")["mixing"]
    assert said.startswith("error")
    assert "at least two devices" in said
