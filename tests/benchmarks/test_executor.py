"""The benchmark of executors counts what is not spent inside of cases, and sees other results."""

import pytest

from benchmarks.executor import AT_A_TIME, Ran, main, run, sources_of, table

FOUND = [["synthetic:listed", "shapes", "pass", ""]]


def test_the_table_names_overhead_and_results():
    local = Ran("local", cases=4, seconds=6.0, inside=8.0, found=FOUND)
    same = Ran("ray", cases=4, seconds=8.0, inside=8.0, found=FOUND)
    other = Ran("killed", cases=4, seconds=9.0, inside=8.0, found=[])
    assert AT_A_TIME == 2
    assert local.overhead == 1.0
    text = table([local, same, other], {"ray": "2"})
    assert "| local | 6.0 | 8.0 | 1.00 |  |  |" in text
    assert "| ray, two nodes | 8.0 | 8.0 | 2.00 | +1.00 | the same |" in text
    assert "| +1.50 | OTHER RESULTS |" in text


@pytest.mark.slow
def test_a_local_run_is_measured():
    ran = run("local", sources_of(1))
    assert ran.cases == 1
    assert 0 < ran.inside < ran.seconds
    assert {status for *_, status, _ in ran.found} == {"pass"}


def test_an_unknown_run_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--run", "nowhere"])
    assert "invalid choice" in capsys.readouterr().err
