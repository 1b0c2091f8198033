"""The flows that other tests invert are sound: each model gives the arrays stored beside it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from flow_cases import DATA, FlowCase, flow_cases

CASES = flow_cases()
ONE_EACH = list({case.name: case for case in CASES}.values())

# float32 against float32, summed in another order.
SAME = 1e-4


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, over the largest magnitude (at least one)."""
    assert found.shape == expected.shape
    gap = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    return float(gap.max() / max(1.0, np.abs(expected).max()))


def test_every_file_is_listed():
    listed = {case.path.name for case in CASES} | {f"{case.name}.npz" for case in CASES} | {"index.json"}
    assert {path.name for path in DATA.iterdir()} == listed


def test_what_no_exporter_wrote_has_a_reason():
    for entry in json.loads((DATA / "index.json").read_text(encoding="utf-8")):
        assert entry["files"] or entry["failures"], entry["name"]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_model_gives_the_arrays(case: FlowCase):
    for name, found in case.run().items():
        assert difference(found, case.arrays[name]) <= SAME


@pytest.mark.parametrize("case", [case for case in CASES if case.batch is None], ids=str)
def test_the_batch_is_free(case: FlowCase):
    for name, found in case.run(slice(7, 10)).items():
        assert difference(found, case.arrays[name][7:10]) <= SAME


@pytest.mark.parametrize("case", ONE_EACH, ids=lambda case: case.name)
def test_the_library_brings_x_back(case: FlowCase):
    """As far as the index says, and in no case by more than a thousandth."""
    if case.inverse_error is None:
        assert "inverse" not in case.arrays
        return
    error = difference(case.arrays["inverse"], case.arrays["x"])
    assert error == pytest.approx(case.inverse_error, rel=0.1)
    assert error <= 1e-3


@pytest.mark.parametrize("case", ONE_EACH, ids=lambda case: case.name)
def test_no_flow_is_the_identity(case: FlowCase):
    """Some latent differs from x, and differs from sample to sample by more than a shift (or is of another shape)."""
    z, x = case.arrays[case.latents[0]], case.arrays["x"]
    if z.shape == x.shape:
        moved = (z - x).reshape(len(x), -1)
        assert moved.std(axis=0).max() > 0.05
