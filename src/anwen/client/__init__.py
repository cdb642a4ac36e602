"""The client library: the only code that sees plaintext."""
