"""Options of the whole test suite: `--sweep`, and how Hypothesis draws."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("round_trips")

ROOT = Path(__file__).resolve().parents[1]

settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_addoption(parser):
    parser.addoption("--sweep", action="store_true", help="run the long sweeps whole, not a sample of them")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--sweep"):
        return
    long = [item for item in items if item.get_closest_marker("sweep")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in set(long)]


@pytest.fixture(scope="session")
def models() -> Path:
    """The folder of the shipped networks."""
    return ROOT / "models"
