"""The property suite, over specs drawn by Hypothesis, for ours or for the subject of ``--moeverify-subject``."""

from pathlib import Path

import pytest
from property_runs import PROPERTY, PropertyLog, run_properties, shards

from moeverify.suites.properties import PROPERTIES


@pytest.fixture(scope="session")
def subject(pytestconfig):
    return pytestconfig.getoption("--moeverify-subject", default=None) or "moe"


@pytest.mark.parametrize(
    ("names", "shard"), shards(), ids=lambda value: "+".join(value) if isinstance(value, tuple) else str(value)
)
def test_a_property_holds_on_generated_models(names, shard, subject, pytestconfig, record_property):
    if PROPERTIES[names[0]].own and subject != "moe":
        pytest.skip("it is about our own groups and plans; it runs without --moeverify-subject")
    log = PropertyLog()
    try:
        run_properties(names, subject, shard, log, Path(pytestconfig.rootpath, "reports", "falsified"))
    finally:
        record_property(PROPERTY, log.data())
    rows = log.rows()
    assert {row["property"] for row in rows} == set(names)
    for row in rows:
        needed = row["not_applicable"] if subject == "moe" else 0
        assert row["examples"] > needed, f"no spec that was drawn says anything about {row['property']}"


def test_every_property_has_a_claim():
    for found in PROPERTIES.values():
        assert len(found.summary) > 40, found.name
