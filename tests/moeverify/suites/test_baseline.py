"""Baselines keep groups and say readably what became of them."""

import copy
import json

import pytest

from moeverify.cli import main
from moeverify.errors import ReportError, SourceError
from moeverify.suites.baseline import Baseline, differences, read_baseline, record, save

SOURCE = "stand_ins:two_layers"


def group(name, members, units=4):
    return {"name": name, "units": units, "experts": 0, "members": members}


OLD = Baseline("moe", {}, {"m": [group("X", {"a:0": "u", "b:1": "u"}), group("Y", {"c:0": "u", "d:0": "u, 4+u"})]})


def changed(edit):
    groups = copy.deepcopy(OLD.groups)
    edit(groups["m"])
    return differences(OLD, Baseline("moe", {}, groups))


@pytest.mark.parametrize(
    ("edit", "lines"),
    [
        (lambda g: g.reverse(), []),
        (lambda g: g[0]["members"].pop("b:1"), ["group X lost member b:1 (model m)"]),
        (lambda g: g[1]["members"].update(e="u"), ["group Y gained member e (model m)"]),
        (
            lambda g: g[1]["members"].update({"d:0": "u, 5+u"}),
            ["group Y: unit u holds u, 5+u of d:0, held u, 4+u (model m)"],
        ),
        (lambda g: g[0].update(units=3), ["group X: has units 3, was 4 (model m)"]),
        (lambda g: g.pop(), ["group Y is gone (model m)"]),
        (lambda g: g.append(group("Z", {"z:0": "u"})), ["group Z is new (model m)"]),
    ],
)  # fmt: skip
def test_differences_name_group_member_and_model(edit, lines):
    assert changed(edit) == lines


def test_record_compare_and_a_lost_member(tmp_path, capfd):
    path = tmp_path / "baseline.json"
    save(record([SOURCE]), path)
    kept = read_baseline(path)
    members = {m for g in kept.groups[SOURCE] for m in g["members"]}
    assert {"a.weight:0", "b.weight:1"} <= members
    with pytest.raises(SystemExit) as stop:
        main(["baseline", "compare", "--file", str(path)])
    assert stop.value.code == 0
    data = json.loads(path.read_text("utf-8"))
    data["groups"][SOURCE][0]["members"]["ghost.weight:0"] = "u"
    path.write_text(json.dumps(data), "utf-8")
    with pytest.raises(SystemExit) as stop:
        main(["baseline", "compare", "--file", str(path)])
    assert stop.value.code == 1
    assert "lost member ghost.weight:0 (model stand_ins:two_layers)" in capfd.readouterr().out


def test_what_is_no_baseline_is_one_line(tmp_path):
    with pytest.raises(ReportError, match="baseline record"):
        read_baseline(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text('{"format": 2}', "utf-8")
    with pytest.raises(ReportError, match="not a baseline"):
        read_baseline(tmp_path / "broken.json")
    with pytest.raises(SourceError, match="shows no groups"):
        record([SOURCE], subject="stand_ins:slow_without_groups")
