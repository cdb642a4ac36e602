"""Strict HTTP/1.1 over TLS 1.3 with pinned keys."""
