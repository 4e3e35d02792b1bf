"""Which channels go: the request, candidates, scores, ranking and rounding."""
