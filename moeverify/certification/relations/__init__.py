"""Relations between the two folders, one file each: what a correct pruning keeps true.

Importing the package registers them in the order of the report.
"""

from importlib import import_module

for _name in (
    "inventory",
    "layout",
    "config_in_step",
    "topology",
    "selection",
    "consistency",
    "router_intact",
    "untouched",
    "claimed_map",
    "loads_whole",
    "causal",
    "masked_equivalence",
    "served",
):
    import_module(f"{__name__}.{_name}")
