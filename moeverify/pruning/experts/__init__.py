"""Whole experts: which dimensions count them, which numbers are legal, who stays, and the plan for it."""
