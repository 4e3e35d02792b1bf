"""Right in float32, wrong in bfloat16, or the other way round."""
