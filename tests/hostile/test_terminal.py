"""Names and messages of models and folders: shown as text, whatever they hold."""

import io
import json
import sys
from xml.etree import ElementTree

import pytest
from torch import nn

from moeverify.base.text import printable
from moeverify.cli.app import tolerant_streams
from moeverify.cli.terminal import escape, make_console
from moeverify.inspection.svg import Drawing
from moeverify.pruning.checkpoint.digest import digest_of
from moeverify.report.annotations import github_annotations
from moeverify.report.html import render_html
from moeverify.report.junit import render_junit
from moeverify.report.result import VerificationResult
from moeverify.verdict import CaseFacts, Status, Verdict

NAMES = {
    "clears_the_screen": "a\x1b[2Jb",
    "sets_the_title": "a\x1b]0;owned\x07b",
    "links_elsewhere": "a\x1b]8;;http://evil\x1b\\b",
    "c1_controls": "a\x9b31mb",
    "turns_direction": "a\u202eb\u2066",
    "breaks_lines": "a\n::error::b\r\u2028\u0085",
    "nul": "a\0b",
    "surrogate": "a\ud800b",
    "backspaces": "a\b\b\bb",
    "byte_order_mark": "\ufeffab",
    "not_a_character": "a\uffffb",
    "tags": "a\U000e0041b",
    "markup": "a]]><script>alert(1)</script>[red]b",
}


def harmless(text, *, lines=False):
    return all(c.isprintable() or (lines and c in "\n\t") for c in text)


@pytest.mark.parametrize("name", NAMES)
def test_everywhere_it_is_text(name):
    text = NAMES[name]
    assert harmless(printable(text))
    assert printable(printable(text)) == printable(text)
    verdict = Verdict(text, text, "shapes", Status.FAIL, text, {"where": [text], text: 1}, text)
    result = VerificationResult(
        (verdict,), (CaseFacts(text, text, {"notes": [text]}),), {"subject": text}, {}, text, 1.0
    )
    assert harmless(f"{verdict.source}{verdict.message}{verdict.reproduce}")
    assert VerificationResult.from_json(result.to_json()).to_dict() == result.to_dict()
    assert json.loads(result.to_json())
    junit = render_junit(result.to_dict())
    assert ElementTree.fromstring(junit) is not None
    assert harmless(junit, lines=True)
    page = render_html(result.to_dict(), ok=result.ok)
    assert harmless(page, lines=True)
    assert "<script>alert" not in page
    assert all(harmless(line) and "\n" not in line for line in github_annotations(result))
    assert len(github_annotations(result)) == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_well_formed(name):
    drawing = Drawing(100)
    drawing.title(NAMES[name], NAMES[name])
    drawing.text(1, 1, NAMES[name], size=10)
    drawing.box(1, 1, 5, 5, "#fff", tip=NAMES[name])
    assert ElementTree.fromstring(drawing.to_string()) is not None
    assert harmless(drawing.to_string(), lines=True)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("escaped", [True, False], ids=["escaped", "raw"])
def test_the_console_prints_it_as_text(name, escaped):
    out = io.StringIO()
    make_console(file=out, width=200).print(escape(NAMES[name]) if escaped else NAMES[name], markup=escaped)
    assert harmless(out.getvalue(), lines=True)


def test_an_ascii_terminal_is_enough(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", errors="strict"))
    tolerant_streams()
    sys.stdout.write("✓ 3 pass → é\n")
    sys.stdout.flush()
    assert raw.getvalue() == b"\\u2713 3 pass \\u2192 \\xe9\n"


def test_a_model_whose_names_are_no_text_has_a_digest():
    """A lone surrogate is a legal name of a module, and has no encoding in UTF-8."""
    one, two = (nn.ModuleDict({name: nn.Linear(2, 2)}) for name in ("a\ud800", "b\ud800"))
    two.load_state_dict({k.replace("a", "b", 1): v for k, v in one.state_dict().items()})
    assert digest_of(one) != digest_of(two)
