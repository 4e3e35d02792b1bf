"""Data of the local tasks: held-out documents of the small model's text, made on the spot without a file."""

from typing import Any

from datasets import Dataset

from synthetic_models.small.text import held_out


def load(kind: str, count: int, choices: int = 0, **_: Any) -> dict[str, Dataset]:
    """A ``test`` split of ``count`` documents of a kind, with ``choices`` answers each if that is not 0.

    The right answer's place among the choices goes round, so that no place is favoured.
    """
    rows: list[dict[str, Any]] = []
    for document in held_out(kind, count):
        wrong = list(document.wrong[: max(choices - 1, 0)])
        if choices and len(wrong) < choices - 1:
            continue
        label = len(rows) % choices if choices else 0
        answers = [*wrong[:label], document.answer, *wrong[label:]] if choices else [document.answer]
        rows.append({"prompt": document.prompt, "answer": document.answer, "choices": answers, "label": label})
    return {"test": Dataset.from_list(rows)}
