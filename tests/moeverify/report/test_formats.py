"""HTML, JUnit, annotations, comparison and bug report are drawn from the same result."""

import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from sample_results import HOSTILE, facts, mixed, result, verdict

from moeverify.cli.summary import print_summary
from moeverify.errors import ReportError, UsageError
from moeverify.report.annotations import github_annotations
from moeverify.report.bug_report import bug_report
from moeverify.report.comparison import compare, read_result, render_comparison
from moeverify.report.headline import headline_numbers
from moeverify.report.html import render_html
from moeverify.report.junit import render_junit
from moeverify.report.result import VerificationResult
from moeverify.report.scrub import scrub, scrub_data
from moeverify.verdict import Status

ROOT = Path(__file__).parents[3]


class Tags(HTMLParser):
    """Tags and ids of a page, and whether every table has a caption."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.ids, self.images = [], [], 0
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.ids += [value for name, value in attributes if name == "id"]
        assert not any(name.startswith("on") and name != "onsubmit" for name, _ in attributes)


def test_html_is_self_contained_escaped_and_captioned():
    page = render_html(mixed().to_dict(), ok=False)
    tags = Tags(page)
    assert tags.tags.count("script") == 1
    assert "img" not in tags.tags
    assert tags.tags.count("table") == tags.tags.count("caption") > 3
    assert len(tags.ids) == len(set(tags.ids))
    assert "<script>alert" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "3 experts, 1 leak<" in page
    assert "between 5 and 7 tokens an expert" in page


def sample(times=1):
    found = VerificationResult.from_json((ROOT / "reports" / "sample" / "report.json").read_text("utf-8"))
    cases = tuple(replace(case, source=f"{case.source}-{n}") for n in range(times) for case in found.cases)
    verdicts = tuple(replace(v, source=f"{v.source}-{n}") for n in range(times) for v in found.verdicts)
    return replace(found, cases=cases, verdicts=verdicts)


def test_reports_of_many_cases_stay_small():
    assert len(sample().cases) == 11
    assert len(render_html(sample().to_dict(), ok=True).encode()) < 1e6
    assert len(render_html(sample(14).to_dict(), ok=True).encode()) < 8e6


def test_sixty_layers_of_512_experts_stay_under_six_megabytes():
    layers = [f"model.layers.{n}.mlp" for n in range(60)]
    names = [f"{layer}.experts[{k}]" for layer in layers for k in range(512)]
    isolation = [
        {"layer": layer, "experts": names[512 * n : 512 * (n + 1)], "own": [4] * 512, "leaks": [], "leak_count": 0}
        for n, layer in enumerate(layers)
    ]
    experts = [
        {"layer": layer, "before": 512, "kept": list(range(0, 512, 2)), "criterion": "reap",
         "scores": [k / 7 for k in range(512)], "tokens": list(range(512))}
        for layer in layers
    ]  # fmt: skip
    sizes = [{"role": "routed_experts", "where": "layers.*", "classes": 60 * 512, "before": 8, "after": 4}]
    tokens = {name: k % 97 for k, name in enumerate(names)}
    found = result(
        verdict("m", "forward-every-expert", Status.PASS, tokens=tokens),
        cases=(facts("m", isolation=isolation, experts=experts, sizes=sizes, roles={"experts": names}),),
    )
    page = render_html(found.to_dict(), ok=True)
    assert len(page.encode()) < 6e6
    assert page.count("between 0 and 96 tokens an expert") == 60


def test_the_headline_holds_the_numbers_that_matter():
    names = {n.name: (n.value, n.note) for n in headline_numbers(sample().to_dict())}
    assert names["models"] == ("11", "11 without a problem")
    assert names["parameters"][0].endswith("%")
    engines = [{"engine": "vllm", "version": "1", "status": "pass"}, {"engine": "llama.cpp", "status": "fail"}]
    served = verdict("m", "served", Status.FAIL, engines=engines)
    kept = [{"layer": "l", "before": 4, "kept": [0, 2, 3]}]
    scores = [{"ratio": r, "scores": {"a": {"value": 1 - r}, "b": {"value": 1}}} for r in (0, 0.5)]
    one = result(
        served, verdict("m", "shapes", Status.FAIL), cases=(facts("m", experts=kept, quality={"points": scores}),)
    )
    names = {n.name: (n.value, n.note) for n in headline_numbers(one.to_dict())}
    assert names == {
        "model": ("1", "0 without a problem"),
        "parameters": ("1 K → 600", "60 % left"),
        "size": ("3.91 KiB → 2.34 KiB", "60 % left"),
        "experts": ("4 → 3", "75 % left"),
        "quality": ("1.000 → 0.750", "mean score at ratio 0.5"),
        "served": ("1 of 2", "vllm 1 agrees, llama.cpp does not agree"),
    }


def test_junit_counts_as_the_result_does():
    root = ET.fromstring(render_junit(mixed().to_dict()))
    assert [(s.get("tests"), s.get("failures"), s.get("errors")) for s in root] == [
        ("2", "0", "0"), ("2", "1", "0"), ("1", "0", "1"),
    ]  # fmt: skip
    assert root[2].get("name").startswith(HOSTILE)


def test_a_document_of_another_schema_is_refused(tmp_path):
    text = mixed().to_json()
    assert VerificationResult.from_json(text).summary == mixed().summary
    with pytest.raises(ReportError, match="status"):
        VerificationResult.from_json(text.replace('"timeout",', '"hung",'))
    with pytest.raises(ReportError, match="not valid JSON"):
        VerificationResult.from_json(text[:-20])
    with pytest.raises(ReportError, match="name a report folder"):
        read_result(tmp_path)


def test_annotations_are_single_lines():
    lines = github_annotations(result(verdict("a:b,c", "shapes", Status.FAIL, "50 %\nwrong")))
    assert lines == [
        "::error title=a%3Ab%2Cc shapes%3A fail::50 %25 wrong%0Areproduce: moeverify verify a:b,c",
    ]


def unseen():
    return result(verdict("m", "shapes", Status.PASS), verdict("m", "reload", Status.INCONCLUSIVE, "no input uses x"))


def test_inconclusive_has_a_mark_of_its_own_everywhere(capsys):
    found = unseen()
    page = render_html(found.to_dict(), ok=found.ok)
    assert '<article class="problem inconclusive">' in page
    assert "all checks pass" not in page
    (suite,) = ET.fromstring(render_junit(found.to_dict()))
    (skipped,) = suite.iter("skipped")
    assert (suite.get("skipped"), suite.get("failures")) == ("1", "0")
    assert (skipped.get("type"), skipped.get("message")) == ("inconclusive", "inconclusive: no input uses x")
    assert github_annotations(found)[0].startswith("::warning title=m reload%3A inconclusive::no input uses x")
    print_summary(found)
    text = capsys.readouterr().out
    assert "? 1 pass, 1 inconclusive in" in text
    assert "? m reload: inconclusive no input uses x" in text
    assert "no input uses x" in bug_report(found)


def test_inconclusive_fails_a_strict_run_only():
    found = unseen()
    assert (found.ok, found.exit_code, found.summary["inconclusive"]) == (True, 0, 1)
    strict = replace(found, settings={**found.settings, "strict": True})
    assert (strict.ok, strict.exit_code) == (False, 1)
    assert VerificationResult.from_json(strict.to_json()).exit_code == 1
    alone = result(verdict("m", "reload", Status.INCONCLUSIVE))
    assert alone.exit_code == 1  # nothing passed


def test_inconclusive_is_neither_expected_nor_refuted():
    found = unseen().verdicts[1]
    assert found.expected_to_fail() == found


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        (Status.PASS, Status.INCONCLUSIVE, "worse"),
        (Status.INCONCLUSIVE, Status.PASS, "better"),
        (Status.INCONCLUSIVE, Status.FAIL, "worse"),
        (Status.FAIL, Status.INCONCLUSIVE, "changed"),
        (Status.SKIP, Status.INCONCLUSIVE, "changed"),
    ],
)
def test_comparison_of_inconclusive_verdicts(before, after, kind):
    (change,) = compare(result(verdict("m", "reload", before)), result(verdict("m", "reload", after))).changes
    assert change.kind == kind


def test_a_report_of_the_schema_before_is_still_read():
    old = mixed().to_json().replace('"schema_version": "1.1"', '"schema_version": "1.0"')
    assert VerificationResult.from_json(old).verdicts == mixed().verdicts


def test_a_comparison_lists_what_became_worse():
    before = result(verdict("m", "shapes", Status.PASS), verdict("m", "reload", Status.FAIL), cases=(facts("m"),))
    after = result(
        verdict("m", "shapes", Status.FAIL),
        verdict("m", "reload", Status.PASS),
        verdict("n", "shapes", Status.PASS),
        cases=(facts("m", parameters_after=500),),
        versions={"torch": "3"},
    )
    found = compare(before, after)
    assert {(c.source, c.check): c.kind for c in found.changes} == {
        ("m", "shapes"): "worse", ("m", "reload"): "better", ("n", "shapes"): "new",
    }  # fmt: skip
    assert not found.ok
    assert {d.where for d in found.differences} == {"versions torch", "m parameters after"}
    assert compare(before, before).ok
    assert "▼ worse" in render_comparison(found, before, after)


def test_a_check_that_no_longer_passes_is_worse():
    before, after = result(verdict("m", "reload", Status.PASS)), result(verdict("m", "reload", Status.SKIP))
    assert not compare(before, after).ok


def test_bug_report_has_everything_and_nothing_private(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MY_API_TOKEN", "abc123456789")
    trace = (
        f'File "{tmp_path}/model.py", line 3\n  key=hf_abcdefghijklmnop https://me:pw@host/x abc123456789 /home/alice/x'
    )
    text = bug_report(
        result(
            verdict("zoo:good", "shapes", Status.PASS),
            verdict("zoo:bad", "terminates", Status.ERROR, "crashed", traceback=trace),
            cases=(facts("zoo:bad", config={"hidden_size": 8, "access_token": "xyz"}),),
        )
    )
    for wanted in (
        "zoo:bad",
        '"hidden_size": 8',
        "Type `toy`",
        '"pruning_ratio": 0.5',
        "torch 2",
        "line 3",
        "moeverify verify zoo:bad",
    ):
        assert wanted in text
    for private in (str(tmp_path), "hf_abcdefghijklmnop", "abc123456789", "alice", "me:pw", "xyz", "zoo:good"):
        assert private not in text
    with pytest.raises(UsageError, match="no source 'nobody'"):
        bug_report(mixed(), "nobody")


def test_scrub_leaves_ordinary_text_alone():
    text = "model.layers.0.mlp.experts.gate_up_proj keeps 16 of 32, wanted 24 (2.5e-09)"
    assert scrub(text) == text
    assert scrub_data({"num_tokens": 5, "tokens": {"a": 1}}) == {"num_tokens": 5, "tokens": {"a": 1}}
