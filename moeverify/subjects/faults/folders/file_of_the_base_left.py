"""``folders/file-of-the-base-left``"""

import shutil

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil_folders import WEIGHTS, keep_half


@fault("zoo:mixtral", {"reload": r"^inventory: .*"})
def prune(base_folder, out_folder, *, pruning_ratio, seed):
    """The base's weights lie beside the pruned ones; loaders that read every file take either."""
    keep_half(base_folder, out_folder)
    shutil.copy(base_folder / WEIGHTS, out_folder / "model-00001-of-00001.safetensors")
