"""Tests of devices run on the CPU, and once more on a GPU where there is one: ``pytest -m gpu``."""

import pytest
import torch

NO_GPU = "no CUDA GPU here; `pytest -m gpu` runs it on a machine with one"


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason=NO_GPU))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    return request.param
