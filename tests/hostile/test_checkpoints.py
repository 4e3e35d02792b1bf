"""Folders from somebody else: what leads out of them, hides in them, or asks for more than there is."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from moeverify.errors import MoEVerifyError, SourceError
from moeverify.models.checkpoints import Loading, load_checkpoint, load_configuration
from moeverify.models.folder.skeleton import build_skeleton
from moeverify.models.full_size import load_full_size
from moeverify.models.sources import load_source
from moeverify.models.stored import INDEX, SINGLE, read_stored
from moeverify.pruning.checkpoint.folders import copy_companions


@pytest.fixture
def folder(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "model")


def edit(folder, **entries):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **entries}), "utf-8")


def shard(folder):
    """Two files and an index in place of one; returns the map from tensor to file."""
    tensors = load_file(folder / SINGLE)
    (folder / SINGLE).unlink()
    names = sorted(tensors)
    where = {name: f"model-{1 + (n % 2):05d}-of-00002.safetensors" for n, name in enumerate(names)}
    for file in set(where.values()):
        part = {n: tensors[n] for n in names if where[n] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    write_index(folder, where)
    return where


def write_index(folder, where, **more):
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where, **more}))


def test_a_sound_folder_of_two_files_loads(folder):
    shard(folder)
    assert load_source(str(folder)).model.config.model_type == "qwen3_moe"


def elsewhere(folder):
    outside = folder.parent / "elsewhere.safetensors"
    first = next(folder.glob("model-00001*"))
    shutil.copy(first, outside)
    return first, outside


def parent_folder(folder, where):
    first, _ = elsewhere(folder)
    return {k: "../elsewhere.safetensors" if v == first.name else v for k, v in where.items()}


def absolute_path(folder, where):
    first, outside = elsewhere(folder)
    return {k: str(outside) if v == first.name else v for k, v in where.items()}


def link_out(folder, where):
    first, outside = elsewhere(folder)
    first.unlink()
    first.symlink_to(outside)
    return where


def link_through_a_folder(folder, where):
    first, _ = elsewhere(folder)
    (folder / "sub").symlink_to(folder.parent)
    return {k: "sub/elsewhere.safetensors" if v == first.name else v for k, v in where.items()}


def pipe(folder, where):
    first = next(folder.glob("model-00001*"))
    first.unlink()
    os.mkfifo(first)
    return where


def device(folder, where):
    first = next(folder.glob("model-00001*"))
    first.unlink()
    first.symlink_to("/dev/zero")
    return where


def missing_file(folder, where):
    next(folder.glob("model-00001*")).unlink()
    return where


def tensor_that_is_not_there(folder, where):
    return {**where, "model.extra.weight": next(iter(where.values()))}


def tensor_in_the_other_file(folder, where):
    first, second = sorted(set(where.values()))
    name = min(where)
    return {**where, name: second if where[name] == first else first}


def tensor_in_both_files(folder, where):
    first, second = (folder / file for file in sorted(set(where.values())))
    tensors = load_file(second)
    save_file({**tensors, **dict(list(load_file(first).items())[:1])}, second)
    return where


def empty_name(folder, where):
    return {**where, min(where): ""}


def file_is_a_number(folder, where):
    return {**where, min(where): 7}


INDICES = (
    parent_folder,
    absolute_path,
    link_out,
    link_through_a_folder,
    pipe,
    device,
    missing_file,
    tensor_that_is_not_there,
    tensor_in_the_other_file,
    tensor_in_both_files,
    empty_name,
    file_is_a_number,
)


@pytest.mark.parametrize("attack", INDICES)
def test_an_index_does_not_leave_the_folder_nor_lie(attack, folder):
    write_index(folder, attack(folder, shard(folder)))
    with pytest.raises(SourceError) as caught:
        load_source(str(folder))
    assert "\n" not in str(caught.value)


def test_an_index_that_names_a_tensor_twice(folder):
    where = shard(folder)
    name = min(where)
    text = json.dumps({"metadata": {}, "weight_map": where})
    (folder / INDEX).write_text(text.replace('"weight_map": {', f'"weight_map": {{"{name}": "x.safetensors", '))
    with pytest.raises(SourceError, match="stands twice"):
        load_source(str(folder))


def test_a_link_to_weights_outside(folder):
    (folder / SINGLE).rename(folder.parent / "outside.safetensors")
    (folder / SINGLE).symlink_to(folder.parent / "outside.safetensors")
    with pytest.raises(SourceError, match="link out of the folder"):
        load_source(str(folder))


def test_links_of_the_hubs_cache_are_its_own(folder, tmp_path):
    home = tmp_path / "models--a--b"
    (home / "blobs").mkdir(parents=True)
    snapshot = home / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    for number, file in enumerate(folder.iterdir()):
        shutil.copy(file, home / "blobs" / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    assert read_stored(snapshot).files.keys() == read_stored(folder).files.keys()


def flip_header(data):
    return (1 << 62).to_bytes(8, "little") + data[8:]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:4],
        lambda data: data[: len(data) // 2],
        flip_header,
        lambda data: b"\x02\0\0\0\0\0\0\0[]",
        lambda data: b"\x80\x04" + data,  # how a pickle begins
    ],
    ids=["empty", "four_bytes", "half", "header_of_exabytes", "header_is_a_list", "pickle"],
)
def test_broken_weights(damage, folder):
    path = folder / SINGLE
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(SourceError) as caught:
        load_source(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("num_hidden_layers", 10**6),
        ("num_hidden_layers", 10**18),
        ("num_experts", 10**9),
        ("num_local_experts", 10**9),
        ("num_attention_heads", 10**9),
        ("hidden_size", 10**12),
        ("vocab_size", 10**12),
        ("moe_intermediate_size", 10**12),
        ("layer_types", ["full_attention"] * 200_000),
        ("sub_config", {"text_config": {"num_hidden_layers": 10**7}}),
    ],
)
def test_absurd_sizes_are_refused_before_anything_is_built(entry, value, folder):
    edit(folder, **{entry: value})
    for load in (load_source, load_full_size):
        with pytest.raises(SourceError, match="the limit is"):
            load(str(folder))


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("model_type", 5),
        ("model_type", ["mixtral"]),
        ("model_type", "../../etc"),
        ("model_type", "\x1b[2J\u202e"),
        ("architectures", "Qwen3MoeForCausalLM"),
        ("architectures", [5]),
        ("architectures", ["os.system"]),
        ("architectures", ["Trainer"]),
        ("hidden_size", -64),
        ("hidden_size", "64"),
        ("num_local_experts", 0),
        ("num_hidden_layers", -1),
        ("quantization_config", {"quant_method": "gptq", "bits": 4}),
        ("quantization_config", {"quant_method": "\x1b[31m"}),
        ("quantization_config", {"load_in_4bit": True}),
        ("quantization_config", "fp8"),
    ],
)
def test_configurations_that_cannot_be_meant(entry, value, folder):
    """A name that is no class is passed over for the type's own; all else is one line without control characters."""
    edit(folder, **{entry: value})
    try:
        loaded = load_source(str(folder))
    except MoEVerifyError as error:
        assert str(error).isprintable()  # noqa: PT017
    else:
        assert entry == "architectures"
        assert type(loaded.model).__name__ == "Qwen3MoeForCausalLM"


@pytest.mark.parametrize("kind", ["folder", "nothing", "dangling_link"])
def test_a_configuration_that_is_none(kind, folder):
    path = folder / "config.json"
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "dangling_link":
        path.symlink_to("nowhere.json")
    with pytest.raises(SourceError):
        load_source(str(folder))


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


def test_a_key_that_is_left_over_is_named(folder):
    tensors = load_file(folder / SINGLE)
    save_file({**tensors, "v_head.summary.weight": torch.ones(1, 64)}, folder / SINGLE, metadata={"format": "pt"})
    with pytest.raises(SourceError, match=r"does not take, such as v_head\.summary\.weight") as caught:
        load_source(str(folder))
    assert "do not belong" not in str(caught.value)


@pytest.mark.parametrize("kind", ["link_out", "absolute_link", "pipe", "device"])
def test_companions_that_are_no_files_of_the_folder_stay_behind(kind, folder, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("private")
    companion = folder / "LICENSE"
    if kind == "pipe":
        os.mkfifo(companion)
    else:
        companion.symlink_to({"link_out": "../secret", "absolute_link": secret, "device": "/dev/zero"}[kind])
    (folder / "tokenizer.json").write_text("{}")
    target = tmp_path / "target"
    target.mkdir()
    assert copy_companions(folder, target) == ["LICENSE"]
    assert sorted(p.name for p in target.iterdir()) == ["generation_config.json", "tokenizer.json"]


def test_a_companion_that_is_a_link_inside_the_folder_is_copied(folder, tmp_path):
    (folder / "TEXT").write_text("ours")
    (folder / "LICENSE").symlink_to("TEXT")
    target = tmp_path / "target"
    target.mkdir()
    assert copy_companions(folder, target) == []
    assert (target / "LICENSE").read_text() == "ours"
    assert not (target / "LICENSE").is_symlink()
