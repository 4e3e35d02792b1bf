"""A task of the hub by name, its data set in a local cache of ``datasets``, without a network."""

import os
import subprocess
import sys

import pytest

from moeverify.evaluation import Evaluation

datasets = pytest.importorskip("datasets", reason="datasets is not installed; `tox run -e tests` installs it")
pytest.importorskip("lm_eval", reason="lm-eval is not installed; `tox run -e tests` installs it")

QUESTIONS = [
    {
        "id": str(number),
        "question": f"add {number} 0 + {number} 0 =",
        "choices": {"text": [f"{2 * number} 0 .", "9 9 .", "8 9 .", "7 9 ."], "label": ["A", "B", "C", "D"]},
        "answerKey": "A",
    }
    for number in range(1, 4)
]


def cache(home):
    """``allenai/ai2_arc``, ``ARC-Easy``, as ``datasets`` keeps it once it was loaded."""
    table = datasets.Dataset.from_list(QUESTIONS)
    folder = home / "datasets" / "allenai___ai2_arc" / "ARC-Easy" / "0.0.0" / "0123456789abcdef"
    folder.mkdir(parents=True)
    splits = datasets.SplitDict(dataset_name="ai2_arc")
    for split in ("train", "validation", "test"):
        with datasets.arrow_writer.ArrowWriter(
            path=str(folder / f"ai2_arc-{split}.arrow"), features=table.features
        ) as writer:
            writer.write_table(table.data.table)
            count, size = writer.finalize()
        splits.add(datasets.SplitInfo(split, num_bytes=size, num_examples=count, dataset_name="ai2_arc"))
    datasets.DatasetInfo(
        builder_name="parquet",
        dataset_name="ai2_arc",
        config_name="ARC-Easy",
        version="0.0.0",
        features=table.features,
        splits=splits,
    ).write_to_directory(folder)


def evaluate(home, out):
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    for name in ("HF_DATASETS_CACHE", "HF_HUB_CACHE"):
        environment.pop(name, None)
    words = ["evaluate", "small", "--tasks", "arc_easy", "--limit", "3", "--out", str(out)]
    command = [sys.executable, "-m", "moeverify", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.nightly
def test_a_cached_data_set_is_all_it_takes(tmp_path):
    missing = evaluate(tmp_path / "home", tmp_path / "scores.json")
    assert missing.returncode == 2
    assert len(missing.stderr.strip().splitlines()) == 1
    assert "the data set of arc_easy is neither cached nor on the hub" in missing.stderr
    assert not (tmp_path / "scores.json").exists()
    cache(tmp_path / "home")
    done = evaluate(tmp_path / "home", tmp_path / "scores.json")
    assert done.returncode == 0, done.stderr
    score = Evaluation.read(tmp_path / "scores.json")["arc_easy"]
    assert (score.documents, score.chance, score.metric) == (3, 0.25, "acc")
