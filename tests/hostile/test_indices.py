"""An index of shards from somebody else: it leads nowhere out of the folder, and the files are held against it."""

import json
import os
import shutil

import pytest
from checkpoint_files import shard, write_index
from safetensors.torch import load_file, save_file

from moeverify.errors import SourceError
from moeverify.models.sources import load_source
from moeverify.models.stored import INDEX


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
