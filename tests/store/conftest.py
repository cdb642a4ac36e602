"""The contract's asserts explain themselves, although it is no test module by name."""

import pytest
from cassandra_members import members

pytest.register_assert_rewrite("contract", "copies")

__all__ = ["members"]
