"""The `anwen` command line: a face of the client."""
