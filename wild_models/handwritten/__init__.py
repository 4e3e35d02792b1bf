"""MoE models after well-known public layouts, each file in the style of its authors and on its own."""
