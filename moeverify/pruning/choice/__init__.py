"""Choice of the channels to remove: request, candidates, scores, ranking and rounding."""
