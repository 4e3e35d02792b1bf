"""Folders from somebody else that are to be certified: one line each, before anything is built or read."""

import json
import time

import pytest
from checkpoint_files import edit

from moeverify.certification.certify import examine
from moeverify.certification.relations.claimed_map import claimed_map
from moeverify.errors import SourceError
from moeverify.models.folder.inventory import take_inventory
from moeverify.models.stored import SINGLE

AT_ONCE = 10.0  # seconds of processor time, with what is imported on the way


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", 10**6),
        ("num_local_experts", 10**9),
        ("hidden_size", 10**12),
        ("layer_types", ["full_attention"] * 200_000),
        ("text_config", {"num_hidden_layers": 10**9}),
    ],
)
def test_absurd_sizes_are_refused_on_either_side(entry, value, folder, pristine):
    """Transformers makes a list of a billion kinds of layers while it reads such a configuration."""
    edit(folder, **{entry: value})
    before = time.process_time()
    for sides in ((pristine, folder), (folder, pristine)):
        with pytest.raises(SourceError, match="the limit is") as caught:
            examine(*sides)
        assert "\n" not in str(caught.value)
    assert time.process_time() - before < AT_ONCE


@pytest.mark.parametrize("name", [SINGLE, "config.json"])
def test_a_link_out_of_the_folder_is_not_followed(name, folder):
    (folder / name).rename(folder.parent / name)
    (folder / name).symlink_to(folder.parent / name)
    with pytest.raises(SourceError, match="link out of the folder"):
        take_inventory(folder)


def test_a_claim_of_more_positions_than_there_are_takes_no_memory(folder, pristine):
    """Each of these sets would take 16 GiB."""
    from moeverify.certification.evidence import Evidence

    (folder / "pruning_plan.json").write_text(json.dumps({"sets": ["0-2147483646"] * 4, "keep": []}))
    found = claimed_map(Evidence(pristine, folder))
    assert found.status.value == "inconclusive"
    assert "more positions than any dimension has" in found.message
