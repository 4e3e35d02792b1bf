"""Code and pickles that come with a checkpoint never run, and nobody is asked whether they may."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from checkpoint_files import edit

from moeverify.errors import SourceError
from moeverify.models.checkpoints import Loading, load_checkpoint, load_configuration
from moeverify.models.folder.skeleton import build_skeleton
from moeverify.models.full_size import load_full_size
from moeverify.models.sources import load_source
from moeverify.models.stored import SINGLE

CODE = "from pathlib import Path\nPath({mark!r}).write_text('ran')\nclass C:\n    pass\n"


def with_code(folder, model_type):
    mark = folder.parent / "ran"
    for name in ("configuration_x.py", "modeling_x.py"):
        (folder / name).write_text(CODE.format(mark=str(mark)))
    edit(
        folder,
        model_type=model_type,
        auto_map={"AutoConfig": "configuration_x.C", "AutoModelForCausalLM": "modeling_x.C"},
    )
    return mark


@pytest.mark.parametrize("model_type", ["qwen3_moe", "of_their_own"])
def test_code_beside_a_checkpoint_never_runs_and_nobody_is_asked(model_type, folder, monkeypatch):
    mark = with_code(folder, model_type)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    loads = (load_source, load_full_size, lambda name: build_skeleton(Path(name)))
    for load in loads:
        if model_type == "qwen3_moe":
            load(str(folder))
        else:
            with pytest.raises(SourceError, match="Python code beside the weights, which is not run"):
                load(str(folder))
    assert not mark.exists()


def test_code_of_a_hub_name_never_runs_and_nobody_is_asked(folder, tmp_path, monkeypatch):
    mark = with_code(folder, "of_their_own")
    home = tmp_path / "cache" / "models--someone--something"
    shutil.copytree(folder, home / "snapshots" / "0123")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    with pytest.raises(SourceError):
        load_configuration("someone/something", "someone/something")
    with pytest.raises(SourceError):
        load_checkpoint("someone/something", "someone/something", Loading(torch.float32))
    assert not mark.exists()


def test_pickled_weights_are_not_loaded_and_the_way_out_is_named(folder):
    class Attack:
        def __reduce__(self):
            return (os.system, (f"touch {folder.parent / 'ran'}",))

    torch.save({"x": Attack()}, folder / "pytorch_model.bin")
    (folder / SINGLE).unlink()
    with pytest.raises(SourceError, match=r"convert them: python -c .*use_safetensors=False.*save_pretrained"):
        load_source(str(folder))
    assert not (folder.parent / "ran").exists()
