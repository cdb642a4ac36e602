"""Rehearsals: the promises of a vault, put to the test on real processes."""
