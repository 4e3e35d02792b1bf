"""The benchmark of group building runs and prints what it promises."""

import json

import pytest

from benchmarks.groups import exponent, main


@pytest.mark.slow
def test_the_table_gives_the_exponents_of_growth(capsys, tmp_path):
    main(["--experts", "4", "8", "--repeat", "1", "--output", str(tmp_path)])
    text = (tmp_path / "groups.md").read_text("utf-8")
    assert capsys.readouterr().out.strip() == text.strip()
    rows = [line.split(" | ")[:2] for line in text.splitlines() if line[:3] in ("| 4", "| 8")]
    assert rows == [["| 4", "5"], ["| 8", "9"]]
    grown = text.splitlines()[-1].partition(": ")[2].split(", ")
    assert [part.split()[0] for part in grown] == ["forward", "build", "groups", "bytes"]
    assert [row["found"] for row in json.loads((tmp_path / "groups.json").read_text("utf-8"))["rows"]] == [5, 9]


def test_exponent_of_a_power():
    assert exponent([2, 4, 8], [3.0, 12.0, 48.0]) == pytest.approx(2.0)
