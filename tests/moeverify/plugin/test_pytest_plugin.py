"""The plugin as another project uses it: a consumer package is installed and its suite run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CONSUMER = Path(__file__).parents[2] / "consumer"
ROOT = Path(__file__).parents[3]
CHECKS = "terminates,something-pruned,masked-equivalence,untouched-identical"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the consumer package installed from its own project file."""
    folder = tmp_path_factory.mktemp("site")
    words = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(folder)]
    subprocess.run([sys.executable, *words, str(CONSUMER)], check=True)
    return folder


@pytest.fixture
def consumer(site, tmp_path):
    """Run the consumer's pytest in an empty folder."""

    def run(*words, tests=()):
        path = os.pathsep.join([str(site), str(ROOT), str(ROOT / "tests" / "support")])
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
        plugin = [] if _installed() else ["-p", "moeverify.pytest_plugin"]
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-c", str(CONSUMER / "pyproject.toml"), "--rootdir", str(tmp_path),
             "-p", "no:cacheprovider", *plugin, *words, *(str(CONSUMER / "tests" / t) for t in tests)],
            capture_output=True, text=True, cwd=tmp_path, env={**environment, "PYTHONPATH": path},
        )  # fmt: skip

    return run


def _installed():
    from importlib.metadata import entry_points

    return any(e.value == "moeverify.pytest_plugin" for e in entry_points(group="pytest11"))


@pytest.mark.slow
def test_a_good_pruner_passes_on_two_workers_with_one_report(consumer, tmp_path):
    words = ["--moeverify-subject", "acme_pruner:good", "--moeverify-sources", "zoo:mixtral,synthetic:listed"]
    words += ["--moeverify-profile", "none"]
    done = consumer(
        *words, "--moeverify-checks", CHECKS, "--moeverify-report", "out", "-n", "2", "-v", "-k", "moeverify"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "moeverify::zoo:mixtral::masked-equivalence" in done.stdout
    document = json.loads((tmp_path / "out/report.json").read_text("utf-8"))
    assert [(v["source"], v["check"], v["status"]) for v in document["verdicts"]] == [
        (source, check, "pass") for source in ("zoo:mixtral", "synthetic:listed") for check in CHECKS.split(",")
    ]
    assert {case["source"] for case in document["cases"]} == {"zoo:mixtral", "synthetic:listed"}
    assert "out/report.html" in done.stdout


@pytest.mark.slow
def test_a_broken_pruner_fails_with_evidence_and_a_line_to_reproduce(consumer, tmp_path):
    words = ["--moeverify-subject", "acme_pruner:broken", "--moeverify-sources", "zoo:mixtral"]
    words += ["--moeverify-profile", "none"]
    more = ["--moeverify-sources", "zoo:mixtral,zoo:nobody", "--moeverify-report", "out"]
    done = consumer(*words, *more, "--moeverify-checks", CHECKS, "-k", "moeverify")
    assert done.returncode == 1
    verdicts = json.loads((tmp_path / "out/report.json").read_text("utf-8"))["verdicts"]
    (lost,) = [v for v in verdicts if v["source"] == "zoo:nobody"]
    assert (lost["check"], lost["status"]) == ("load", "error")
    assert "the zoo has no 'nobody'" in lost["message"]
    assert "zoo:mixtral masked-equivalence: fail" in done.stdout
    assert re.search(r"reproduce: moeverify verify zoo:mixtral --subject acme_pruner:broken .*--seed 0", done.stdout)
    assert "moeverify/pytest_plugin/session.py" not in done.stdout
    expected = "untouched-identical,zoo:mixtral::masked-equivalence"
    done = consumer(*words, "--moeverify-checks", CHECKS, "-k", "moeverify", "--moeverify-expect-fail", expected)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
    assert "2 xfailed" in done.stdout


@pytest.mark.nightly
def test_properties_show_the_smallest_spec_and_a_line_to_replay(consumer, tmp_path):
    words = ["--moeverify-subject", "acme_pruner:broken", "--moeverify-sources", "zoo:mixtral"]
    done = consumer(*words, "-k", "specs and masked-equivalence")
    assert done.returncode == 1
    assert "masked-equivalence does not hold for acme_pruner:broken" in done.stdout
    assert re.search(r"moeverify replay \S+/falsified/masked-equivalence.json", done.stdout)
    assert "spec = Spec(" in done.stdout
    assert (tmp_path / "reports/falsified/masked-equivalence.json").exists()


@pytest.mark.nightly
def test_roles_are_given_as_on_the_command_line(consumer, tmp_path):
    (tmp_path / "roles.toml").write_text('[roles]\nexperts = "^nobody$"\nrouters = "^chooser$"\n')
    words = [
        "--moeverify-subject",
        "moe",
        "--moeverify-sources",
        "stand_ins:unusual_names",
        "--moeverify-report",
        "out",
    ]
    words += ["--moeverify-profile", "none", "--moeverify-checks", "something-pruned,router-intact"]
    words += ["--moeverify-roles", "roles.toml", "--moeverify-experts-pattern", "^blades$"]  # the option wins
    done = consumer(*words, "-k", "moeverify", "-rs")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    document = json.loads((tmp_path / "out/report.json").read_text("utf-8"))
    assert document["settings"]["roles"] == {"experts": "^blades$", "routers": "^chooser$"}
    assert document["cases"][0]["facts"]["roles"]["routers"] == ["model.layers.0.mixture.chooser"]
    assert "--experts-pattern '^blades$'" in document["verdicts"][0]["reproduce"]


@pytest.mark.slow
def test_the_summary_prints_what_passes_leave_open(consumer):
    words = ["--moeverify-subject", "moe", "--moeverify-sources", "stand_ins:one_input", "--moeverify-checks", "shapes"]
    done = consumer(*words, "--moeverify-profile", "none", "-k", "moeverify")
    assert done.returncode == 0, done.stdout + done.stderr
    said = (
        "moeverify note: stand_ins:one_input shapes: runs, output [5, 4] as before; all checks use the example inputs"
    )
    assert said in done.stdout


@pytest.mark.slow
def test_fixtures_and_marker_verify_the_users_model(consumer):
    done = consumer(tests=["test_acme.py"])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--moeverify-subject", "nobody"), "unknown subject 'nobody'"),
        pytest.param(
            ("--moeverify-subject", "moe", "--moeverify-roles", "none.toml"),
            "cannot read none.toml",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("--moeverify-subject", "moe", "--moeverify-routers-pattern", "("),
            "not a regular expression",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_wrong_options_are_one_line(consumer, words, said):
    done = consumer(*words)
    assert done.returncode == 4
    assert "ERROR: " in done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
