"""The contract's asserts explain themselves, although it is no test module by name."""

import pytest

pytest.register_assert_rewrite("contract")
