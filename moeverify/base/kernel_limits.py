"""Numbers of experts and groups that fused kernels of serving engines take; another engine may take more.

Sources: vllm-project/vllm#50982 (counts), flashinfer-ai/flashinfer#5165 (groups), ROCm/aiter#2369 (in a group).
"""

EXPERT_COUNTS = frozenset((*range(1, 129), 192, 256, 320, 384, 448, 512, 576))
MOST_GROUPS, MOST_CHOSEN_GROUPS, MOST_IN_A_GROUP = 8, 4, 32
