"""Where a model comes from and how it is called: sources, roles, devices, example inputs, numerics, the zoo."""
