"""Runs made of many cases: the self-test, baselines, replay, the property suite, the table of the zoo."""
