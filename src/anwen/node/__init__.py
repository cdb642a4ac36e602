"""The node: checks grants and receipts, moves sealed bytes, holds no key."""
