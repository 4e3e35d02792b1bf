"""``folders/count-not-written``"""

import shutil

from moeverify.subjects.faults.registry import fault
from moeverify.subjects.faults.spoil_folders import CONFIG, keep_half


@fault("zoo:mixtral", {"terminates": r"the folder that it wrote does not load"})
def prune(base_folder, out_folder, *, pruning_ratio, seed):
    """The configuration still counts the base's experts."""
    keep_half(base_folder, out_folder)
    shutil.copy(base_folder / CONFIG, out_folder / CONFIG)
