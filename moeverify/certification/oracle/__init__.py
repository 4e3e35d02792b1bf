"""Running both models: small ones as a whole, in float64."""
