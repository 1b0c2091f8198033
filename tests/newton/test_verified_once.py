"""What runs to verify a solver: what was tried is not run again on the same y, and noise only where it decides."""

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from solving import layers, normal

import onnx_invert
from onnx_invert import invert, rescue
from onnx_invert.bench import Bench
from onnx_invert.runtime import Recalled, Runs, Session

WINE = Path(__file__).parents[2] / "models/surrogates/wine.onnx"
NARROWS = layers(normal(6, 20) / 3, "Tanh", normal(20, 3, seed=1) / 4, width=6)
SQUARE = layers(np.eye(4) + normal(4, 4) / 8, "Tanh", np.eye(4) + normal(4, 4, seed=1) / 8, width=4)


@pytest.fixture
def runs(monkeypatch):
    """How often a session of each name was run."""
    counts = {}
    plain = Session.run

    def counted(self, feeds, outputs=None):
        counts[self._name] = counts.get(self._name, 0) + 1
        return plain(self, feeds, outputs)

    monkeypatch.setattr(Session, "run", counted)
    return counts


def saved(model, folder):
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


def test_what_was_tried_is_what_is_written(runs, tmp_path):
    """One run in all, of the file's own bytes: whoever runs the file finds the same errors."""
    model = saved(NARROWS, tmp_path)
    trip = invert(model, tmp_path / "inverse.onnx", method="newton").round_trip
    assert runs["the inverse"] == 1
    again = onnx_invert.check(model, tmp_path / "inverse.onnx").round_trip
    np.testing.assert_array_equal(again.y.errors, trip.y.errors)
    np.testing.assert_array_equal(again.x.errors, trip.x.errors)


@pytest.mark.parametrize("options", [{"residual": True}, {"opset": 18}, {"bounds": (-4, 4)}])
def test_options_of_the_file_are_those_of_the_trial(options, runs, tmp_path):
    invert(saved(NARROWS, tmp_path), tmp_path / "inverse.onnx", method="newton", **options)
    assert runs["the inverse"] == 1


def test_other_samples_are_run(runs, tmp_path):
    model = saved(NARROWS, tmp_path)
    trip = invert(model, tmp_path / "inverse.onnx", method="newton", samples=8).round_trip
    assert trip.samples == 8
    assert runs["the inverse"] == 2
    assert trip.y.worst < 1e-6


def test_noise_is_left_out_where_x_is_not_promised_and_does_not_come_back(runs):
    found = invert(NARROWS, method="newton")
    assert runs["the inverse"] == 1
    assert not found.round_trip.x.promised
    assert not found.round_trip.x.holds
    assert found.report["round_trip"]["x_error"]["amplification"] is None
    assert found.report["round_trip"]["y_error"]["amplification"] >= 1


def test_noise_is_there_where_x_comes_back(runs):
    """It is not promised, but that it comes back is measured."""
    found = invert(SQUARE, method="newton")
    assert runs["the inverse"] == 3
    assert not found.round_trip.x.promised
    assert found.round_trip.x.holds
    assert found.report["round_trip"]["x_error"]["amplification"] >= 1


def test_noise_is_there_where_x_is_promised(runs):
    widens = layers(normal(3, 6), "Tanh", normal(6, 5, seed=1) / 2, width=3)
    found = invert(widens, method="newton", force=True)
    assert runs["the inverse"] >= 3
    assert np.isfinite(found.round_trip.x.amplification).all()


def test_a_file_is_loaded_for_what_it_has_not_been_run_on(tmp_path):
    path = saved(NARROWS, tmp_path)
    x = normal(5, 6).astype(np.float32)
    runs = Runs(hashlib.sha256(path.read_bytes()).hexdigest(), {"x"})
    runs.add({"x": x}, {"y": np.zeros((5, 3), np.float32)})
    file, session = Recalled(path, "the model", runs), Session(path, "the model")
    assert not file.run({"x": x}, ["y"])["y"].any()
    for other in (x[:4], np.nextafter(x, np.float32(9))):
        np.testing.assert_array_equal(file.run({"x": other}, ["y"])["y"], session.run({"x": other})["y"])


@pytest.fixture
def trials(monkeypatch):
    """The iterations of the second loop in each trial, None without one."""
    asked = []
    plain = Bench.run

    def watched(self, options, batches, most, **more):
        asked.append(options.again if options.starts else None)
        return plain(self, options, batches, most, **more)

    monkeypatch.setattr(Bench, "run", watched)
    return asked


def test_one_solved_sample_decides(trials):
    """Starts are kept for it, and the other starts of the trial are left out."""
    found = invert(WINE)
    assert trials == [None, rescue.AT_FIRST]
    assert sum(node.op_type == "Loop" for node in found.model.graph.node) == 3
    assert found.round_trip.unsolved == 0


def test_where_starts_help_at_last_they_are_kept(trials, monkeypatch):
    """None within the first starts says nothing of the later ones."""
    monkeypatch.setattr(rescue, "AT_FIRST", 1)
    found = invert(WINE, verify=False)
    assert trials == [None, 1, rescue.SHORTLY]
    assert sum(node.op_type == "Loop" for node in found.model.graph.node) == 3


def test_starts_of_one_system_are_fitted_once(monkeypatch):
    fitted = []
    plain = rescue._fit
    monkeypatch.setattr(rescue, "_fit", lambda *given: fitted.append(plain(*given)) or fitted[-1])
    invert(WINE, verify=False)
    assert len(fitted) == 1
