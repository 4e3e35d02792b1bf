"""Progress of a streaming run: how much, how fast, how long."""

from moeverify.pruning.streaming import progress


def test_a_line_says_rate_and_time_left(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    said = []
    meter = progress.Meter("write", 3 << 30, said.append)
    now[0] += 0.5
    meter.add(1 << 29)
    assert said == ["write (3.0 GiB)"]  # too soon for another line
    now[0] += 1.5
    meter.add(1 << 29)
    assert said[1:] == ["write: 1.0 of 3.0 GiB, 0.50 GiB/s, 4 s left"]
    now[0] += 2.0
    meter.add(2 << 30)
    assert said[-1] == "write: 3.0 of 3.0 GiB, 0.75 GiB/s, 0 s left"
