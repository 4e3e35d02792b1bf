"""``folders/router-left-out``"""

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil_folders import edit, keep_half


@fault("zoo:mixtral", {"reload": r"^layout: .*gate\.weight is missing"})
def prune(base_folder, out_folder, *, pruning_ratio, seed):
    """A router is not written, and is random after loading."""
    keep_half(base_folder, out_folder)
    edit(out_folder, lambda tensors: tensors.pop(next(name for name in tensors if name.endswith("gate.weight"))))
