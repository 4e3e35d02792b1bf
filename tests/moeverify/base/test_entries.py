"""Entries of nested documents by path."""

import pytest

from moeverify.base.entries import entry_at, name_of, with_entries

DOCUMENT = {"text": {"sizes": [3, 4], "width": 8}, "pair": (1, 2)}


def test_new_entries_go_into_parts_and_lists_of_a_copy():
    changed = with_entries(DOCUMENT, {("text", "sizes", 1): 7, ("text", "width"): 4, ("pair", 0): 5, ("new",): 6})
    assert changed == {"text": {"sizes": [3, 7], "width": 4}, "pair": [5, 2], "new": 6}
    assert DOCUMENT == {"text": {"sizes": [3, 4], "width": 8}, "pair": (1, 2)}


def test_a_path_through_a_part_that_is_missing_is_an_error():
    with pytest.raises(KeyError):
        with_entries(DOCUMENT, {("vision", "width"): 4})


@pytest.mark.parametrize(
    ("path", "entry"), [(("text", "sizes", 1), 4), (("pair", 1), 2), (("pair", 2), None), (("text", "depth"), None)]
)
def test_an_entry_is_found_by_its_path_or_none(path, entry):
    assert entry_at(DOCUMENT, path) == entry


def test_paths_are_shown_as_users_write_them():
    assert name_of(("text", "sizes", 1)) == "text.sizes[1]"
