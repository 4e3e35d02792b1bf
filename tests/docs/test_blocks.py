"""The Python examples of every page run, with the names that a reader would have."""

import json
from types import SimpleNamespace

import pytest
import torch
from docs_pages import PAGES, ROOT, blocks
from torch import nn
from torch.nn import functional as F

import moeverify as mv
from moeverify.checks import CHECKS
from moeverify.checks.context import Context
from moeverify.coupling.relations import Relations
from moeverify.coupling.rules.registry import RULES, Call, normalise, rule
from moeverify.models.zoo import build_zoo
from moeverify.pruning.choice.criteria.registry import EXPERT_CRITERIA
from moeverify.pruning.choice.importances import IMPORTANCES, importance_named
from moeverify.serving.registry import ENGINES
from moeverify.subjects import Pruned
from moeverify.subjects.faults.registry import FAULTS, find_fault
from moeverify.verdict import Status
from moeverify.verification.executors.registry import EXECUTORS, Work
from moeverify.verification.limits import Limits
from tests.moeverify.coupling.rules.cases.registry import CASES, Draw, cases
from tests.moeverify.coupling.rules.removal import OneCall, one_call

IDS = {"input_ids": torch.arange(32).view(2, 16)}
# The tutorial runs from top to bottom, the guide as one script.
ELSEWHERE = {
    "tutorial.md": "tests/docs/test_examples.py",
    "from-torch-pruning.md": "tests/moeverify/pruning/test_migration_guide.py",
}

# Names under which the examples register something.
REGISTERED = {
    *("experts-finite", "finite", "acme.scaled", "largest-of-channel", "largest-weight", "announced", "loud"),
    *("acme", "sglang", "altered/expert-not-finite", "faults/not-finite"),
}


def run(name, number, names=None):
    """Run a block of a page; returns its names."""
    names = {} if names is None else names
    exec(compile(blocks(ROOT / "docs" / name, "python")[number], name, "exec"), names)
    return names


@pytest.fixture(autouse=True)
def registries():
    """What an example registers is taken back; what a registry loads when it is first asked stays."""
    registries = (CHECKS, RULES, CASES, EXPERT_CRITERIA, IMPORTANCES, ENGINES, EXECUTORS, FAULTS)
    before = [dict(registry) for registry in registries]
    yield
    for registry, content in zip(registries, before, strict=True):
        registry.update(content)
        for name in REGISTERED & (registry.keys() - content.keys()):
            del registry[name]


def context(original, pruned):
    return Context("zoo:mixtral", original, pruned, IDS, Pruned(), 0.5, 0, "float32")


@pytest.mark.slow
def test_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = build_zoo("mixtral")
    names = run("../README.md", 0, {"model": model, "ids": IDS["input_ids"]})
    assert names["result"].ok
    assert (tmp_path / "pruned" / "model.safetensors").exists()


def test_adding_a_check():
    run("adding-a-check.md", 0)
    model = build_zoo("mixtral")
    assert CHECKS["experts-finite"](context(build_zoo("mixtral"), model)).status is Status.PASS
    names = run("adding-a-check.md", 1, {"__name__": "moeverify.subjects.faults.altered.expert_not_finite"})
    names["prune"](model, IDS, pruning_ratio=0.5, seed=0)
    finding = CHECKS["experts-finite"](context(build_zoo("mixtral"), model))
    assert finding.status is Status.FAIL
    (pattern,) = find_fault("altered/expert-not-finite").caught_by.values()
    with pytest.raises(AssertionError, match=pattern):
        raise AssertionError(finding.message)


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 16), nn.Linear(8, 5)

    def forward(self, x):
        return self.down(F.glu(self.up(x)))


def test_adding_a_rule():
    del RULES["aten.glu"], CASES["aten.glu"]
    assert mv.trace_couplings(Gated(), torch.randn(3, 6)).unknown_operations == {"aten.glu": 1}
    run("adding-a-rule.md", 0, {"rule": rule, "Call": Call, "Relations": Relations, "normalise": normalise})
    (found,) = mv.trace_couplings(Gated(), torch.randn(3, 6)).classes
    assert {m.parameter: m.positions.shape for m in found.members} == {
        "up.weight": (8, 2), "up.bias": (8, 2), "down.weight": (8, 1),
    }  # fmt: skip
    run("adding-a-rule.md", 1, {"cases": cases, "Draw": Draw, "OneCall": OneCall, "one_call": one_call})
    assert "aten.glu" in CASES


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder with a base and a pruned model, each as ``save_pretrained`` leaves it."""
    place = tmp_path_factory.mktemp("folders")
    model = build_zoo("mixtral")
    model.save_pretrained(place / "base")
    mv.MoEPruner(model, IDS, ignored_layers=[model.lm_head]).step()
    model.save_pretrained(place / "pruned")
    return place


def test_certify(folders, monkeypatch, capsys):
    monkeypatch.chdir(folders)
    assert run("certify.md", 0)["result"].ok
    assert "True" in capsys.readouterr().out
    asked = []
    run("certify.md", 1)["test_the_checkpoint_that_we_release"](
        lambda *words, **options: asked.append((words, options))
    )
    assert asked == [(("base", "pruned"), {"oracle": "none"})]


def test_extending(tmp_path, capsys):
    for number in range(7):
        run("extending.md", number, {"__file__": str(tmp_path / "acme.py"), "__name__": "acme.faults.not_finite"})
    model = build_zoo("mixtral")
    assert CHECKS["finite"](context(build_zoo("mixtral"), model)).status is Status.PASS
    FAULTS["faults/not-finite"].prune(model, IDS, pruning_ratio=0.5, seed=0)
    assert "down_proj holds NaN" in CHECKS["finite"](context(build_zoo("mixtral"), model)).message
    assert "acme.scaled" in RULES
    mv.MoEPruner(build_zoo("mixtral"), IDS, importance=importance_named("largest-of-channel")).plan()
    weights = SimpleNamespace(flat=[torch.tensor([1.0, -3.0]), torch.tensor([2.0])])
    assert EXPERT_CRITERIA["largest-weight"].from_weights(weights, None).tolist() == [3.0, 2.0]
    EXECUTORS["announced"](Work([], lambda _: Limits(), lambda event: None, 1))
    assert capsys.readouterr().out == "verifying\n"
    assert ENGINES["acme"].worker == tmp_path / "serve_acme.py"


def test_many_machines(capsys):
    run("many-machines.md", 0)["loud"](Work([], lambda _: Limits(), lambda event: None, 1))
    assert capsys.readouterr().out == "0 cases\n"
    assert "loud" in EXECUTORS


def test_property_suite():
    names = run("property-suite.md", 0)
    assert names["known"].classes["hidden"][0]
    assert names["known"].frozen is not None


def test_prune_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = build_zoo("mixtral")
    run("prune-a-checkpoint.md", 0, {"model": model, "pruner": mv.MoEPruner(model, IDS)})
    assert json.loads((tmp_path / "plan.json").read_text("utf-8"))["cuts"]


class Letters:
    """A tokenizer: one token a letter."""

    eos_token_id = 0

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [ord(letter) % 60 + 1 for letter in text]}


def test_remove_experts(tmp_path, monkeypatch):
    import transformers

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *words, **options: Letters())
    (tmp_path / "c4.jsonl").write_text(json.dumps({"text": "one two three four five six " * 40}) + "\n")
    model = build_zoo("mixtral")
    before = model.config.num_local_experts
    names = run("remove-experts.md", 0, {"model": model, "inputs": IDS})
    assert model.config.num_local_experts == before // 2
    steady = run("remove-experts.md", 1)["steady"]
    scored = mv.MoEPruner(
        build_zoo("mixtral"), IDS, ratios={"experts": 0.5}, expert_criterion=steady, calibration=names["data"]
    )
    assert scored.plan().experts


def test_serving(tmp_path):
    run("serving.md", 0, {"__file__": str(tmp_path / "engine.py")})
    assert ENGINES["sglang"].worker == tmp_path / "serve_sglang.py"


class Settings:
    width = 24


class Sized(nn.Module):
    """A model whose forward reads a size of its settings."""

    def __init__(self):
        super().__init__()
        self.settings = Settings()
        self.up, self.down = nn.Linear(6, 24), nn.Linear(24, 6)

    def forward(self, x):
        return self.down(self.up(x).view(len(x), self.settings.width))


def test_verify_your_model(capsys):
    names = {"MyModel": lambda config: config, "small_config": "small", "torch": torch}
    model, inputs = run("verify-your-model.md", 0, names)["make"]()
    assert (model, inputs["input_ids"].shape) == ("small", (2, 32))
    sized = Sized()
    run("verify-your-model.md", 1, {"pruner": mv.MoEPruner(sized, torch.randn(3, 6))})
    assert capsys.readouterr().out == "settings.width 24 -> 12\n"


def test_verify_your_pruner():
    import synthetic_models

    for number in range(3):
        assert callable(run("verify-your-pruner.md", number)["prune"])
    seen = []
    names = {"MyModel": object, "inputs": IDS, "my_fork": SimpleNamespace(prune=print), "pytest": pytest}
    tests = run("verify-your-pruner.md", 3, {**names, "synthetic_models": synthetic_models})
    tests["test_my_pruner_on_my_model"](lambda model, **options: seen.append(sorted(options)))
    tests["test_known_gap"](lambda *words, **options: seen.append((words, options)))
    spec = synthetic_models.default_specs()["listed"]
    tests["test_every_synthetic_model"](spec, lambda model, **options: seen.append(type(model).__name__))
    assert seen[:2] == [["example_inputs", "subject"], (("zoo:mixtral",), {"subject": "my_fork:prune"})]
    assert len(seen) == 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_page_with_examples_has_a_test(page):
    tests = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    name = page.name.lower().removesuffix(".md").replace("-", "_")
    assert not blocks(page, "python") or name in tests or (ROOT / ELSEWHERE[page.name]).exists()
