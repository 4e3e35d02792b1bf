"""A memory of values found by product keys."""

from wild_models.packaged._around import around

PACKAGE = "product-key-memory"


def make():
    """The model and its input."""
    from product_key_memory import PKM

    return around(lambda: PKM(dim=32, heads=2, num_keys=8, topk=4, dim_head=16))
