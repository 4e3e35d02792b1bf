"""Gate and up halves mixed up, or their interleaving ignored."""
