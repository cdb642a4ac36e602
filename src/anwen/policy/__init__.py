"""What a policy means: purposes, budgets, retention, its check and its differences. Pure."""
