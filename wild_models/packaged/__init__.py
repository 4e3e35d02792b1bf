"""MoE models whose layers come from packages of others; ``requirements.txt`` pins each."""
