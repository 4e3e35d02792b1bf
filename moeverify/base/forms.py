"""Forms of the names that users write: sources, subjects, importances, roles, dtypes; for help and messages.

Nothing is imported here, so that ``--help`` costs little. Tests hold these words against what the modules accept.
"""

SOURCES = (
    "synthetic, synthetic:NAME, synthetic:SPEC.json, zoo:TYPE, zoo:all, small, a checkpoint folder, org/name, "
    "module:factory"
)
SUBJECTS = (
    "moe, moe-experts, torch-pruning, the folder of a Torch-Pruning fork, fault:NAME, module:attribute, or "
    "'cmd:COMMAND {base} {out} {ratio} {seed}' for a program that prunes folders"
)
EXPERT_CRITERIA = (
    "reap, frequency, weighted-frequency, ean, man, msan, easy-ep (these need data), aimer, magnitude, random, "
    "module:function"
)
IMPORTANCES = "magnitude, magnitude-l1, lamp, random, routing, camera, module:attribute"
ROLES = ("experts", "hidden", "routed_experts", "shared_experts", "dense_mlp", "heads", "other")
DTYPES = ("float32", "float64", "bfloat16", "float16")
