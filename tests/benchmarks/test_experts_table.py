"""The table of whole experts says which rows are older than the newest checks, and names every exception."""

from benchmarks.experts import table


def row(passed, **more):
    return {"passed": passed, "problems": {}, "unseen": {}, "skipped": {}, "refused": "", "left": 0.5} | more


def test_rows_with_fewer_checks_are_counted():
    results = {
        "0.5": {"new": row(19), "skips": row(18, skipped={"causal": "dense"}), "keys": row(0, refused="product keys")},
        "0.25": {"new": row(17), "fails": row(18, problems={"reload": "fail: other bits"})},
    }
    text = table(results, {"moeverify": "0"})
    assert "Ratio 0.5: 2 of 3 types without a problem.\n" in text
    assert "Ratio 0.25: 1 of 2 types without a problem. 1 rows were recorded before the newest checks." in text
    assert "- keys, ratio 0.5, refused: product keys" in text
    assert "- fails, ratio 0.25, reload: fail: other bits" in text
