"""Changes to the files of a checkpoint folder: entries of its configuration, shards, their index."""

import json

from safetensors.torch import load_file, save_file

from moeverify.models.stored import INDEX, SINGLE


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
