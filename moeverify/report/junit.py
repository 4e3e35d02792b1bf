"""JUnit XML for continuous integration."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

from moeverify.base.text import printable
from moeverify.verdict import Status

# JUnit knows no more than these; what is inconclusive is skipped with a reason that begins with that word.
_ELEMENT = {
    Status.FAIL: "failure",
    Status.ERROR: "error",
    Status.TIMEOUT: "error",
    Status.SKIP: "skipped",
    Status.INCONCLUSIVE: "skipped",
}


def render_junit(document: Mapping[str, Any]) -> str:
    """JUnit XML from a result's JSON document: one suite a source and subject, one test case a check."""
    root = ET.Element("testsuites", name="moeverify")
    keys = list(dict.fromkeys((v["source"], v["subject"]) for v in document["verdicts"]))
    for source, subject in keys:
        verdicts = [v for v in document["verdicts"] if (v["source"], v["subject"]) == (source, subject)]
        count = {s: sum(v["status"] == s for v in verdicts) for s in Status}
        suite = ET.SubElement(
            root,
            "testsuite",
            name=printable(f"{source} [{subject}]"),
            tests=str(len(verdicts)),
            failures=str(count[Status.FAIL]),
            errors=str(count[Status.ERROR] + count[Status.TIMEOUT]),
            skipped=str(count[Status.SKIP] + count[Status.INCONCLUSIVE]),
            time=f"{sum(v['seconds'] for v in verdicts):.3f}",
            timestamp=document["created"],
        )
        for verdict in verdicts:
            case = ET.SubElement(
                suite,
                "testcase",
                classname=printable(f"{source}.{subject}"),
                name=printable(verdict["check"]),
                time=f"{verdict['seconds']:.3f}",
            )
            if element := _ELEMENT.get(verdict["status"]):
                prefix = "inconclusive: " if verdict["status"] == Status.INCONCLUSIVE else ""
                message = printable(prefix + verdict["message"])
                detail = ET.SubElement(case, element, message=message, type=verdict["status"])
                evidence = json.dumps(verdict["evidence"], indent=2)
                detail.text = printable(
                    f"{verdict['message']}\n{evidence}\nreproduce: {verdict['reproduce']}", lines=True
                )
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"
