"""The mark of each status."""

from moeverify.verdict import Status

SYMBOLS = {
    Status.PASS: "✓",
    Status.FAIL: "✗",
    Status.ERROR: "!",
    Status.TIMEOUT: "◔",
    Status.SKIP: "–",
    Status.INCONCLUSIVE: "?",
}
