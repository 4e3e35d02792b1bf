"""Something that goes along was forgotten: an expert, a shared expert, the router, a bias, a limit."""
