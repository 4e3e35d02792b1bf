"""The memory benchmark on its smallest point."""

import pytest

from benchmarks import memory


@pytest.mark.slow
def test_extra_memory_is_about_the_largest_layer(capsys):
    assert memory.main(["--quick", "--hidden", "512"]) == 0
    assert "| 2 | bfloat16 |" in capsys.readouterr().out


def test_peak_sees_what_is_taken():
    with memory.watch() as peak:
        block = bytearray(64 << 20)
        block[:: 1 << 12] = b"\1" * len(block[:: 1 << 12])
    assert peak.bytes > 48 << 20
