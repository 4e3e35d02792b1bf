"""The benchmark of group building runs and prints what it promises."""

import sys

import pytest

from benchmarks.groups import exponent, main


def test_table_and_exponents(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["groups", "--experts", "4", "8", "--repeat", "1"])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[:2] for line in lines[2:4]] == [["| 4", "5"], ["| 8", "9"]]
    assert [line.split(" grows")[0] for line in lines[4:]] == ["forward", "build", "groups", "bytes"]


def test_exponent_of_a_power():
    assert exponent([2, 4, 8], [3.0, 12.0, 48.0]) == pytest.approx(2.0)
