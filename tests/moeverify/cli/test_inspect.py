"""``moeverify inspect`` on the terminal, as JSON and as a picture."""

import json
import re
import subprocess
import sys

import pytest
import torch
from torch import nn

from moeverify.cli import main


def run(capsys, *words):
    with pytest.raises(SystemExit) as stopped:
        main(["inspect", *words])
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


def test_the_overview_shows_experts_boundaries_classes_and_causes(capsys):
    code, out, _ = run(capsys, "zoo:qwen2_moe")
    assert code == 0
    assert "model.layers.{1-2}.mlp" in out
    assert "4 fused in one Qwen2MoeExperts" in out
    assert "Qwen2MoeTopKRouter" in out
    assert "each of 4 experts" in out  # the boundary
    assert "32 in each of 4 experts" in out  # the class
    assert "rows of an embedding are chosen by data" in out


def test_json_holds_layers_boundaries_classes_and_causes(capsys):
    code, out, _ = run(capsys, "zoo:qwen2_moe", "--json")
    data = json.loads(out)
    assert code == 0
    assert data["format"] == "moeverify-inspect/1"
    assert [layer["layout"] for layer in data["moe_layers"]] == ["fused", "fused"]
    assert data["boundaries"]["model.layers.1.mlp.experts"] == "model.layers.1.mlp.experts"
    assert data["boundaries"]["model.layers.1.mlp.gate"] is None
    routed = [item for item in data["classes"] if item["role"] == "routed_experts"]
    assert [item["size"] for item in routed] == [32, 32]
    down = next(m for m in routed[0]["members"] if m["parameter"].endswith("down_proj"))
    assert (down["dim"], down["units"], down["first"], down["step"]) == (2, 32, "0", 1)
    assert any("embedding" in item["reason"] for item in data["frozen"])
    assert not data["unknown_operations"]


def test_an_explanation_names_operations_and_the_picture_is_written(capsys, tmp_path):
    picture = tmp_path / "layer.svg"
    code, out, _ = run(
        capsys, "zoo:mixtral", "--explain", "model.layers.1.mlp.experts.down_proj:2:3", "--svg", str(picture)
    )
    assert code == 0
    assert re.search(r"gate_up_proj dim 1 positions 3,\d+\n", out)  # gate, and up behind it
    assert "_grouped_mm" in out
    assert picture.read_text().startswith("<svg")
    code, out, _ = run(capsys, "zoo:mixtral", "--explain", "lm_head.weight:0:1", "--json")
    assert json.loads(out)["explanations"][0]["frozen"]["reason"] == "dimension of the model's output"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["zoo:mixtral", "--explain", "lm_head.weight"], "--explain takes PARAM:DIM:POS"),
        (["zoo:mixtral", "--explain", "lm_hed.weight:0:1"], "did you mean lm_head.weight"),
        (["zoo:mixtral", "--svg", "x.svg", "--layer", "model.layers.99"], "no MoE layer 'model.layers.99'"),
        (["nothing-there", "--full-size"], "no such source"),
        (["synthetic:shared", "--full-size"], "of its full size already"),
        (["zoo:mixtral", "--dtype", "float23"], "unknown dtype 'float23'"),
    ],
)
def test_wrong_usage_is_one_line(capsys, words, message):
    code, _, err = run(capsys, *words)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(8, 5), nn.Linear(5, 8)

    def forward(self, x):
        return self.down(torch.relu(self.up(x)))


class Custom(nn.Module):
    """An MoE layer in words of its own."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 8)
        self.bank = nn.ModuleDict({"red": Cell(), "blue": Cell()})
        self.chooser = nn.Linear(8, 2)
        self.head = nn.Linear(8, 3)

    def forward(self, ids):
        x = self.embed(ids)
        weight = self.chooser(x).softmax(-1)
        return self.head(x + weight[..., :1] * self.bank["red"](x) + weight[..., 1:] * self.bank["blue"](x))


def factory():
    return Custom(), torch.arange(6)


def test_roles_of_a_custom_model(capsys, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "custom_moe.py").write_text(
        f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n" + _source(Cell, Custom, factory)
    )
    roles = tmp_path / "roles.toml"
    roles.write_text('[roles]\nexperts = "^bank$"\nrouters = "^chooser$"\n')
    for words in (["--roles", str(roles)], ["--experts-pattern", "^bank$", "--routers_pattern", "^chooser$"]):
        for size in ([], ["--full-size"]):
            code, out, err = run(capsys, "custom_moe:factory", "--json", *words, *size)
            assert code == 0, err
            data = json.loads(out)
            (layer,) = data["moe_layers"]
            assert layer["experts"] == ["bank.red", "bank.blue"]
            assert layer["routers"] == {"chooser": "Linear"}
            assert data["boundaries"]["bank.red.up"] == "bank.red"
            assert sorted(c["size"] for c in data["classes"] if c["role"] == "routed_experts") == [5, 5]


def _source(*things):
    import inspect
    import textwrap

    head = "import torch\nfrom torch import nn\n\n"
    return head + "\n\n".join(textwrap.dedent(inspect.getsource(thing)) for thing in things)


def test_a_folder_with_a_configuration_alone_is_inspected(capsys, tmp_path):
    from transformers import AutoConfig

    config = AutoConfig.for_model(
        "mixtral", hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=8, vocab_size=50,
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    renamed = tmp_path / "sub" / "mine.json"
    renamed.parent.mkdir()
    renamed.write_text((tmp_path / "config.json").read_text())
    for source in (tmp_path, tmp_path / "config.json", renamed):
        code, out, err = run(capsys, str(source), "--json")
        assert code == 0, err
        assert len(json.loads(out)["moe_layers"][0]["experts"]) == 8
    (tmp_path / "config.json").write_text("{}")
    code, _, err = run(capsys, str(tmp_path))
    assert code == 2
    assert "has no model_type" in err


def test_no_code_of_a_checkpoint_is_run(capsys, tmp_path):
    marker = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w')\n")
    (tmp_path / "config.json").write_text(
        json.dumps(
            {"model_type": "never_heard_of", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}
        )
    )
    code, _, err = run(capsys, str(tmp_path))
    assert code == 2
    assert "Python code beside the weights, which is not run" in err
    assert "pass --trust-remote-code" in err
    assert not marker.exists()


FULL_SIZE = """
import json, resource, sys
import torch
from moeverify.inspection.inspection import inspect_source
import transformers.models.auto.modeling_auto
from transformers import AutoModelForCausalLM

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

before = peak()
found = inspect_source(sys.argv[1], full_size=True)
roles = {role: [len(items), items[0].coupling.size] for role, items in found.by_role().items()}
experts = [len(layer.experts) for layer in found.roles.layers]
print(json.dumps({"grown": peak() - before, "roles": roles, "experts": experts, "parameters": found.parameters}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "parameters", "experts", "layers"),
    [
        ("zoo:deepseek_v3", 671e9, 256, 58),
        pytest.param("zoo:qwen3_next", 79e9, 512, 48, marks=pytest.mark.nightly),
    ],
)
def test_full_size_in_less_than_a_gibibyte(source, parameters, experts, layers):
    done = subprocess.run([sys.executable, "-c", FULL_SIZE, source], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["parameters"] > parameters
    assert data["experts"] == [experts] * layers
    assert data["roles"]["routed_experts"][0] == layers
    assert data["roles"]["hidden"][0] == 1
    assert data["grown"] < 2**30


def test_roles_with_their_evidence_and_a_file_that_gives_them(capsys):
    code, out, _ = run(capsys, "zoo:qwen2_moe")
    assert code == 0
    assert "Roles and their evidence" in out
    assert "experts = '^experts$'" in out
    assert "routers = '^(gate|shared_expert_gate)$'" in out
