"""Options of the whole test suite: `--sweep`, how Hypothesis draws, and one thread a process."""

import os

# A process for every core is what runs in parallel: with threads of their own they wait for each other. BLAS reads
# this once, before numpy is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import onnxruntime
import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("round_trips")

_load = onnxruntime.InferenceSession.__init__


def _on_one_thread(self, model, sess_options=None, *rest, **named):
    """As it loads a model, on one thread where the options do not name a number: there is no variable for that."""
    sess_options = sess_options or onnxruntime.SessionOptions()
    if sess_options.intra_op_num_threads == 0:
        sess_options.intra_op_num_threads = 1
    _load(self, model, sess_options, *rest, **named)


onnxruntime.InferenceSession.__init__ = _on_one_thread

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
