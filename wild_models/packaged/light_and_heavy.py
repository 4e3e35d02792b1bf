"""A light layer for all tokens and a heavy one for those that are routed to it."""

from wild_models.packaged._around import around

PACKAGE = "CoLT5-attention"


def make():
    """The model and its input."""
    from colt5_attention import ConditionalRoutedFeedForward

    return around(lambda: ConditionalRoutedFeedForward(32, num_heavy_tokens=4))
