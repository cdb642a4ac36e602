"""One module for each suite: `run(setting)` returns its rounds and settings."""
