"""What checks that passed leave open, said beside the headline: a pass must not sound like more than was asked."""

from __future__ import annotations

from moeverify.verdict import Status, VerificationResult


def caveats(result: VerificationResult) -> list[str]:
    """One line for each verdict that passed with a ``caveat`` in its evidence."""
    return [
        f"{v.source} {v.check}: {v.message}"
        for v in result.verdicts
        if v.status is Status.PASS and v.evidence.get("caveat")
    ]
