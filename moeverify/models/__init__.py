"""Models and how to call them: sources, roles, devices, example inputs, numerics, the zoo."""
