"""The one command for a GPU: parts fit into its time, and what fails or hangs is written down beside the others."""

import json
import sys

from benchmarks import gpu
from benchmarks.gpu import MOST_SECONDS, Part, carry_out, main, parts


def test_all_parts_together_take_at_most_eight_minutes(tmp_path):
    for device in ("cuda", "cpu"):
        made = parts(device, tmp_path, tmp_path)
        assert [part.name for part in made] == ["tests", "verify", "full-model", "experts", "certify"]
        assert sum(part.seconds for part in made) <= MOST_SECONDS
        assert all(device in command for part in made[1:4] for command in part.commands)


def test_a_part_that_fails_or_hangs_takes_no_other_along(tmp_path, monkeypatch, capsys):
    def part(name, *codes):
        return Part(name, 60 if name != "hangs" else 1, tuple((sys.executable, "-c", code) for code in codes))

    made = [
        part("fails", "print('before'); raise SystemExit(3)", "print('never')"),
        part("hangs", "import time; time.sleep(600)"),
        part("works", "print('one')", "print('two')"),
    ]
    monkeypatch.setattr(gpu, "parts", lambda *_: made)
    assert main(["--out", str(tmp_path)]) == 1
    found = {p.name: json.loads((tmp_path / "parts" / f"{p.name}.json").read_text()) for p in made}
    assert {name: one["exit_code"] for name, one in found.items()} == {"fails": 3, "hangs": None, "works": 0}
    assert found["fails"]["output"] == "before\n"
    assert found["works"]["output"] == "one\ntwo\n"
    assert found["hangs"]["seconds"] < 60
    assert "too slow" in capsys.readouterr().out
    assert main(["--out", str(tmp_path), "--only", "works"]) == 0


def test_the_end_of_a_long_output_is_kept():
    outcome = carry_out(Part("long", 60, ((sys.executable, "-c", "print('x' * 9000 + 'end')"),)))
    assert outcome.output.endswith("xend\n")
    assert len(outcome.output) == 4000
