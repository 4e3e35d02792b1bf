"""Files beside the weights are copied if they are files of the folder, never what a link or a device leads to."""

import os

import pytest

from moeverify.pruning.checkpoint.folders import copy_companions


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
