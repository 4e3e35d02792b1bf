"""What a rule says is summed over what, against the derivatives of the operation."""

import itertools

import pytest
import torch

from tests.moeverify.coupling.rules.removal import one_call, state

A, B, C = 3, 4, 5


def x(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 2


CALLS = [
    ("aten.sum", x(A, B, C), [1]),
    ("aten.sum", x(A, B, C), [0, 2]),
    ("aten.mean", x(A, B, C), [-1], True),
    ("aten.linalg_vector_norm", x(A, B, C), 2, [0]),
    ("aten.var", x(A, B, C), [2]),
    ("aten.logsumexp", x(A, B), [0]),
    ("aten.cumsum", x(A, B, C), 1),
    ("aten._softmax", x(A, B), 1, False),
    ("aten.mm", x(A, B), x(B, C)),
    ("aten.bmm", x(2, A, B), x(2, B, C)),
    ("aten.addmm", x(C), x(A, B), x(B, C)),
    ("aten.baddbmm", x(2, A, C), x(2, A, B), x(2, B, C)),
    ("aten.addbmm", x(A, C), x(2, A, B), x(2, B, C)),
    ("aten.mv", x(A, B), x(B)),
    ("aten.addmv", x(A), x(A, B), x(B)),
    ("aten.linear", x(2, A, B), x(C, B), x(C)),
    ("aten.add", x(A, B), x(B)),
    ("aten.select", x(A, B), 0, 1),
    ("aten.view", x(A, B), [B, A]),
    ("aten._grouped_mm", x(6, B).float(), x(2, B, 8).float(), torch.tensor([2, 6], dtype=torch.int32)),
]


def summed(call, number):
    """Pairs ``(over, stays)`` of an input's dimensions: an output takes from several positions of one, and of the other
    dimension from a single one."""

    tensor = call.inputs[number].detach()

    def outputs(value):
        inputs = iter([value if n == number else t for n, t in enumerate(call.inputs)])
        swapped = [next(inputs) if isinstance(a, torch.Tensor) else a for a in call.args]
        return call.func(*swapped, **call.kwargs)

    jacobian = torch.autograd.functional.jacobian(outputs, tensor).reshape(-1, *tensor.shape)
    found = set()
    for over, stays in itertools.permutations(range(tensor.dim()), 2):
        for row in jacobian:
            places = row.nonzero()
            apart = {int(p[stays]): set() for p in places}
            for p in places:
                apart[int(p[stays])].add(int(p[over]))
            if len(apart) == 1 and any(len(positions) > 1 for positions in apart.values()):
                found.add((over, stays))
    return found


@pytest.mark.parametrize("call", CALLS, ids=lambda c: f"{c[0]}-{len(c)}-{c[1].dim()}")
def test_sums_are_those_of_the_derivatives(call):
    if call[0] == "aten._grouped_mm" and not hasattr(torch.ops.aten, "_grouped_mm"):
        pytest.skip("this release of PyTorch has none; `tox run -e tests` has one that does")
    made = one_call(*call)
    stated = state(made)
    for number, tensor in enumerate(made.inputs):
        if not tensor.is_floating_point():
            continue
        dims = stated.tensors[next(n for n in stated.tensors if n.endswith(str(number)))]
        said = {
            (dims.index(over), dims.index(stays))
            for over, stays, _ in stated.relations.sums
            if over in dims and stays in dims
        }
        assert said == summed(made, number), number
