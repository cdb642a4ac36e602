"""Every text and byte format: policies, messages, envelopes, checkpoints, values. Pure."""
