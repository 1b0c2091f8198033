"""Shows what an assertion in `against_scipy` compared."""

import pytest

pytest.register_assert_rewrite("against_scipy")
