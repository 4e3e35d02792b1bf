"""``folders/router-rows-exchanged``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil_folders import edit, keep_half


@fault("zoo:mixtral", {"reload": r"^router-intact: .*mlp\.gate\.weight is out of step"})
def prune(base_folder, out_folder, *, pruning_ratio, seed):
    """The router's rows stand in another order than the experts; every key loads."""
    keep_half(base_folder, out_folder)

    def exchange(tensors):
        name = next(name for name in tensors if name.endswith("gate.weight"))
        tensors[name] = tensors[name].flip(0)

    edit(out_folder, exchange)
