"""What workers read from the output of an engine: its own words, without what it printed before."""

import sys
from pathlib import Path

import pytest

from moeverify.serving.engines import ENGINES


@pytest.fixture
def serve_loop(monkeypatch):
    """The loop as the workers import it: by the folder that they lie in."""
    monkeypatch.setattr(sys, "path", [str(Path(ENGINES["llama.cpp"].worker).parent), *sys.path])
    import serve_loop as loop

    return loop


WARNING = "0.00.041.075 W load: newline token not found: _Map_base::at! Using special_pad_id instead."


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (f"{WARNING}/src/models/jamba.cpp:32: GGML_ASSERT(2 * n_embd == d_inner) failed",
         "/src/models/jamba.cpp:32: GGML_ASSERT(2 * n_embd == d_inner) failed"),
        (f"{WARNING}0.00.096.041 E llama_model_load: error loading model: 'a' has wrong shape; expected 1, got 2",
         "llama_model_load: error loading model: 'a' has wrong shape; expected 1, got 2"),
        (f"{WARNING}\n0.01.000.000 E missing tensor 'b'", "missing tensor 'b'"),
        (WARNING, ""),
    ],
)  # fmt: skip
def test_the_error_is_given_without_the_warnings_before_it(serve_loop, log, words):
    assert serve_loop._engine_error(log) == words
