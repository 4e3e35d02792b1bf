"""Folders from somebody else: what leads out of them, hides in them, or asks for more than there is."""

import shutil

import pytest
import torch
from checkpoint_files import edit
from safetensors.torch import load_file, save_file

from moeverify.errors import MoEVerifyError, SourceError
from moeverify.models.full_size import load_full_size
from moeverify.models.sources import load_source
from moeverify.models.stored import SINGLE, read_stored


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
def test_broken_weights_are_refused_in_one_line(damage, folder):
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


def test_a_key_that_is_left_over_is_named(folder):
    tensors = load_file(folder / SINGLE)
    save_file({**tensors, "v_head.summary.weight": torch.ones(1, 64)}, folder / SINGLE, metadata={"format": "pt"})
    with pytest.raises(SourceError, match=r"does not take, such as v_head\.summary\.weight") as caught:
        load_source(str(folder))
    assert "do not belong" not in str(caught.value)
