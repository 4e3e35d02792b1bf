"""Messages of a case: whole, well-formed, its own and in order, or the case is an error."""

import json
import struct

import pytest

from moeverify.errors import ProtocolError, SourceError
from moeverify.verdict import CaseFacts, Status
from moeverify.verification.case import Case, verdict_of
from moeverify.verification.events import CaseFinished, StageReached, VerdictReached
from moeverify.verification.messages import MOST_BYTES, Conversation, Frames, event_message, pack

CASE = Case("stand_ins:two_layers", checks=("terminates", "shapes"))
TOKEN = "a-token"


def verdict(check, status=Status.PASS, case=CASE):
    return VerdictReached(case, verdict_of(case, check, status, "text", {"a": [1, None]}))


def stage(name):
    return StageReached(CASE, name)


FINISHED = CaseFinished(CASE, CaseFacts(CASE.source, CASE.subject, {"seconds": 1.5}))
WHOLE = [stage("import"), stage("load"), stage("prune"), stage("terminates"), verdict("terminates"), stage("shapes"),
         verdict("shapes"), FINISHED]  # fmt: skip
CRASHED = [*WHOLE[:3], verdict("terminates", Status.ERROR), verdict("shapes", Status.SKIP), FINISHED]


def take(events, token=TOKEN):
    conversation = Conversation(CASE, TOKEN)
    return [conversation.event(event_message(event, token)) for event in events]


@pytest.mark.parametrize("events", [WHOLE, CRASHED])
@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_events_arrive_as_they_were_sent(events, piece):
    data = b"".join(pack(event_message(event, TOKEN)) for event in events)
    frames, conversation = Frames(), Conversation(CASE, TOKEN)
    arrived = [
        conversation.event(message)
        for start in range(0, len(data), piece)
        for message in frames.feed(data[start : start + piece])
    ]
    assert arrived == events
    assert conversation.finished


@pytest.mark.parametrize(
    "data",
    [
        b'{"event": "verdict"}\n',
        b"x",
        b"MoEv" + struct.pack(">I", MOST_BYTES + 1),
        struct.pack(">4sI", b"MoEv", 2) + b"[]",
        struct.pack(">4sI", b"MoEv", 3) + b"{x}",
        struct.pack(">4sI", b"MoEv", 200_000) + b"[" * 200_000,
        pack({"kind": "stage", "token": TOKEN, "stage": "import"}) + b"\n",
    ],
)
def test_what_is_no_frame_is_refused(data):
    with pytest.raises(ProtocolError):
        list(Frames().feed(data))


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([verdict("terminates")], "a verdict of 'terminates' came in stage ''"),
        ([*WHOLE[:3], verdict("terminates")], "a verdict of 'terminates' came in stage 'prune'"),
        ([*WHOLE[:5], verdict("terminates")], "came in stage 'terminates'"),
        ([*WHOLE[:5], verdict("shapes")], "a verdict of 'shapes' came in stage 'terminates'"),
        ([stage("prune")], "stage 'prune' came where 'import' was expected"),
        ([*WHOLE[:4], stage("shapes")], "came before the verdict of terminates"),
        ([*WHOLE[:7], stage("more")], "where 'the end' was expected"),
        ([*WHOLE[:5], FINISHED], "ended without a verdict of shapes"),
        ([*WHOLE[:7], CaseFinished(CASE, None)], "ended without facts"),
        ([*WHOLE, stage("import")], "came after the end"),
        ([*WHOLE[:4], verdict("terminates", case=Case("another", checks=CASE.checks))], "came in stage"),
    ],
)
def test_what_is_out_of_order_is_refused(events, message):
    with pytest.raises(ProtocolError, match=message):
        take(events)


@pytest.mark.parametrize(
    "change",
    [
        {"token": "guessed"},
        {"kind": "nobody"},
        {"kind": ["stage"]},
        {"stage": 7},
        {"more": 1},
        {"kind": "verdict"},
        {"kind": "finished", "facts": {"source": 1}},
    ],
)
def test_a_malformed_or_forged_message_is_refused(change):
    message = {**event_message(stage("import"), TOKEN), **change}
    with pytest.raises(ProtocolError):
        Conversation(CASE, TOKEN).event(message)


def test_a_status_that_does_not_exist_is_refused():
    message = json.loads(json.dumps(event_message(verdict("terminates"), TOKEN)))
    message["verdict"]["status"] = "splendid"
    conversation = Conversation(CASE, TOKEN)
    for event in WHOLE[:4]:
        conversation.event(event_message(event, TOKEN))
    with pytest.raises(ProtocolError, match="malformed"):
        conversation.event(message)


def test_an_error_of_ours_arrives_as_itself():
    message = {"kind": "refused", "token": TOKEN, "error": "SourceError", "message": "no such folder"}
    error = Conversation(CASE, TOKEN).event(message)
    assert isinstance(error, SourceError)
    assert str(error) == "no such folder"
    other = Conversation(CASE, TOKEN).event({**message, "error": "Sequence"})
    assert not isinstance(other, SourceError)
