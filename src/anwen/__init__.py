"""Anwen: a self-hosted vault for personal data."""
