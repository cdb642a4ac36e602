"""The keeper: the only program that holds a share of any key."""
