"""Regular expressions for roles: none takes for ever, neither to compile nor to search."""

import time

import pytest
from torch import nn

from moeverify.base.patterns import SECONDS, matches
from moeverify.errors import UsageError
from moeverify.models.roles import Roles, find_roles


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("a" * 201, "the limit is 200"),
        ("((((a{100}){100}){100}){100}){100}", "counted repeats"),
        ("a{99999}", "counted repeats"),
        ("a{2,999999999999}", "counted repeats"),
        ("(", "not a regular expression"),
        ("[z-a]", "not a regular expression"),
        ("*", "not a regular expression"),
        ("(?P<n>a)(?P=m)", "not a regular expression"),
    ],
)
def test_patterns_that_are_refused(pattern, message):
    with pytest.raises(UsageError, match=message):
        Roles(experts=pattern)


@pytest.mark.parametrize("pattern", ["(a|aa)+$", "(a|a|b)*c", "(a*)*b", "((a+)+)+c"])
def test_a_search_ends_in_bounded_time(pattern):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.add_module("a" * 60 + "!", nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]))

    begin = time.monotonic()
    try:
        find_roles(Model(), Roles(experts=pattern))
    except UsageError as error:
        assert "takes too long" in str(error)  # noqa: PT017
    assert time.monotonic() - begin < 10 * SECONDS


def test_ordinary_patterns_match_as_they_did():
    assert matches("^(experts?|bank)$", "expert")
    assert not matches("^(experts?|bank)$", "an_expert")
