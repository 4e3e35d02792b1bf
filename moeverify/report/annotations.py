"""Problems as annotations of GitHub Actions, so that a pull request shows them."""

from __future__ import annotations

from moeverify.report.result import VerificationResult
from moeverify.verdict import PROBLEMS, Status


def _escape(text: str, *, title: bool = False) -> str:
    for character, code in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A")):
        text = text.replace(character, code)
    return text.replace(":", "%3A").replace(",", "%2C") if title else text


def github_annotations(result: VerificationResult) -> list[str]:
    """One workflow command each: an error for a problem, a warning for what is inconclusive."""
    kinds = {**dict.fromkeys(PROBLEMS, "error"), Status.INCONCLUSIVE: "warning"}
    return [
        f"::{kinds[v.status]} title={_escape(f'{v.source} {v.check}: {v.status.value}', title=True)}::"
        + _escape(f"{v.message}\nreproduce: {v.reproduce}")
        for v in result.verdicts
        if v.status in kinds
    ]
