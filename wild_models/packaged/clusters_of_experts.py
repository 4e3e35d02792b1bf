"""Clusters of experts behind a tree of routers."""

from wild_models.packaged._around import around

PACKAGE = "cluster-moe"


def make():
    """The model and its input."""
    from cluster_moe import ClusterOfExpertsLayer, CoEConfig

    return around(
        lambda: ClusterOfExpertsLayer(
            CoEConfig(
                d_model=32,
                d_ff=48,
                num_clusters=2,
                experts_per_cluster=3,
                max_tree_depth=2,
                use_expert_selection_cache=False,
            )
        )
    )
