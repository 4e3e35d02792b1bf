"""The judge's end of the connection: what came whole before a broken message still counts."""

import socket

import pytest

from moeverify.verification.case import IMPORT, LOADING, PRUNE
from moeverify.verification.handover.link import BrokeProtocol, Link
from moeverify.verification.messages import pack

STAGES = [IMPORT, LOADING, PRUNE]


@pytest.fixture
def ends(tmp_path):
    """The subject's end of a connection, and the judge's link on the other."""
    theirs, ours = socket.socketpair()
    with theirs, ours:
        yield theirs, Link(ours, -1, tmp_path)


def stage(name):
    return pack({"kind": "stage", "stage": name})


@pytest.mark.parametrize("said", range(len(STAGES) + 1))
def test_stages_that_came_with_a_broken_message_are_announced(ends, said):
    theirs, link = ends
    theirs.sendall(b"".join(map(stage, STAGES[:said])) + b'{"half": ')
    announced = []
    with pytest.raises(BrokeProtocol, match="no message begins with"):
        link.first(announced.append)
    assert announced == STAGES[:said]


def test_a_message_of_no_schema_comes_after_those_before_it(ends):
    theirs, link = ends
    theirs.sendall(stage(IMPORT) + pack({"kind": "verdict", "status": "pass"}) + stage(LOADING))
    announced = []
    with pytest.raises(BrokeProtocol, match="there is no message 'verdict'"):
        link.first(announced.append)
    assert announced == [IMPORT]
