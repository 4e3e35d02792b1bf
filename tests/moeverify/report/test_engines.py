"""Engines in the report: one row each, with its own words and numbers."""

from sample_results import curves, verdict

from moeverify.report.card import model_card
from moeverify.report.engines import engine_rows, served_by
from moeverify.verdict import Status


def test_each_engine_has_a_row_with_its_own_words():
    (served,) = curves().to_dict()["verdicts"]
    first, second = engine_rows(served)
    assert (first["status"], first["base"], first["pruned"]) == ("pass", "1e-06", "2e-06")
    assert (second["status"], second["message"], second["pruned"]) == ("fail", "refuses it: KeyError: experts.3", "")
    assert engine_rows(None) == []


def test_the_page_and_the_card_tell_engines_apart(tmp_path):
    page = curves().to_html(tmp_path / "report.html").read_text("utf-8")
    table = page.partition('<table class="engines">')[2].partition("</table>")[0]
    assert table.index("vllm 1 answers") < table.index("refuses it: KeyError: experts.3")
    assert "hidden 100: k-quants want 256" in table
    assert "vllm 1 agrees, llama.cpp 2 does not agree" in model_card(curves())


def test_agreement_is_counted_by_engine_without_those_that_were_not_there():
    def one(source, *statuses):
        engines = [{"engine": name, "status": s, "version": ""} for name, s in zip("ab", statuses, strict=True)]
        return verdict(source, "served", Status.PASS, engines=engines).to_dict()

    found = [one("m", "pass", "fail"), one("n", "pass", "skip"), one("o", "pass", "pass")]
    assert served_by(found) == ("4 of 5", "a agrees on 3 of 3, b agrees on 1 of 2")
    assert served_by([one("m", "skip", "skip")]) is None
