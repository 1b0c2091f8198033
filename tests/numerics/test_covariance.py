"""Covariances too large to be formed, against scikit-learn: the leading eigenvectors, the shrinkage, the memory."""

import tracemalloc

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA, IncrementalPCA, TruncatedSVD

from onnx_invert.numerics import covariance
from onnx_invert.numerics.covariance import root
from onnx_invert.numerics.prior import fit

SIDE, CHANNELS = 64, 3
N = SIDE * SIDE * CHANNELS


def images(count, seed=0):
    """Smooth images of 64 × 64 × 3: waves whose strength falls with their frequency, and a little noise."""
    rng = np.random.default_rng(seed)
    line = np.linspace(0, 1, SIDE)
    waves = np.stack([np.cos(np.pi * k * line) for k in range(6)])
    field = np.einsum("ai,bj->abij", waves, waves).reshape(36, 1, SIDE * SIDE)
    colour = np.random.default_rng(1).standard_normal((36, CHANNELS, 1))
    basis = (field * colour).reshape(36, N)
    strength = 2.0 ** -np.arange(36)[None, :] * 8 + 0.05
    made = rng.standard_normal((count, 36)) * strength @ basis
    return (0.5 + made / 50 + 0.02 * rng.standard_normal((count, N))).astype(np.float32)


X = images(120)


def pieces(x, size=64):
    return lambda: (x[i : i + size].astype(np.float64) for i in range(0, len(x), size))


@pytest.fixture
def few(monkeypatch):
    """Forty eigenvectors at most."""
    monkeypatch.setattr(covariance, "RANK", 40)


def test_the_leading_eigenvectors_are_those_of_principal_components(few):
    found = root(pieces(X - X.mean(axis=0)), N)
    assert found.rows.shape == (40, N)
    exact = PCA(8, svd_solver="full").fit(X.astype(np.float64))
    variances = exact.explained_variance_ * (len(X) - 1) / len(X)
    lengths = np.linalg.norm(found.rows, axis=1)
    order = np.argsort(lengths)[::-1][:5]  # after these comes the noise, flat
    deviations = np.square(lengths[order]) + found.least
    # The shrinkage, the same for all, is compared in the next test.
    np.testing.assert_allclose(deviations / deviations[0], np.sqrt(variances[:5] / variances[0]), rtol=1e-2)
    unit = found.rows[order] / lengths[order, None]
    np.testing.assert_allclose(np.abs(np.sum(unit * exact.components_[:5], axis=1)), 1, atol=1e-3)


def test_the_shrinkage_is_ledoit_and_wolfs(few, monkeypatch):
    """Of 40 eigenvectors of 600, which hold a third of the variance."""
    monkeypatch.setattr(covariance, "LARGEST", 100)
    rng = np.random.default_rng(4)
    x = rng.standard_normal((200, 600)) * np.geomspace(1, 0.01, 600)
    x = x - x.mean(axis=0)
    found, theirs = root(pieces(x), 600), LedoitWolf(assume_centered=True).fit(x)
    ours = found.after(np.eye(600))
    delta, mean = theirs.shrinkage_, np.sum(np.square(x)) / x.size
    kept = np.sort(np.square(np.linalg.norm(found.rows, axis=1)) + found.least)[::-1][:10]
    exact = np.linalg.eigvalsh(x.T @ x / len(x))[::-1][:10]
    np.testing.assert_allclose(np.square(kept), (1 - delta) * exact + delta * mean, rtol=2e-2)
    # What no eigenvector holds has the variance that is left.
    assert np.trace(ours @ ours) == pytest.approx(np.trace(theirs.covariance_), rel=1e-6)


@pytest.mark.parametrize("other", [IncrementalPCA(5, batch_size=80), TruncatedSVD(5, algorithm="arpack")], ids=str)
def test_no_subspace_of_that_size_holds_much_more(other, few):
    """What the five leading directions hold of images that they were not fitted to, beside others' directions."""
    mean = X.mean(axis=0)
    found = root(pieces(X - mean), N)
    order = np.argsort(np.linalg.norm(found.rows, axis=1))[::-1][:5]
    unit = (found.rows[order] / np.linalg.norm(found.rows[order], axis=1)[:, None]).astype(np.float32)
    fresh = images(100, seed=2) - mean
    theirs = other.fit(X - mean).components_
    held = [np.sum(np.square(fresh @ basis.T)) / np.sum(np.square(fresh)) for basis in (unit, theirs)]
    assert held[0] > held[1] - 1e-4
    assert held[0] > 0.5


def test_the_root_is_one_of_the_shrunk_covariance(monkeypatch):
    """Of as many directions as there are samples the low rank loses nothing: A Aᵀ is Ledoit and Wolf's covariance."""
    x = np.random.default_rng(3).standard_normal((30, 50)) * np.geomspace(1, 0.1, 50)
    x = x - x.mean(axis=0)
    whole = root(pieces(x), 50)
    monkeypatch.setattr(covariance, "LARGEST", 10)
    low = root(pieces(x), 50)
    assert low.least > 0
    assert (whole.size, low.size) == (50, 50)
    eye = np.eye(50)
    np.testing.assert_allclose(low.after(eye).T @ low.after(eye), whole.rows.T @ whole.rows, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(low.before(eye), low.after(eye), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(whole.before(eye), whole.rows)
    w = np.random.default_rng(4).standard_normal((3, 50))
    for found in (whole, low):
        np.testing.assert_allclose(found.back(found.after(w)), w, rtol=1e-8, atol=1e-8)


def test_data_larger_than_the_memory_that_is_taken(tmp_path, monkeypatch):
    """59 MB of images as float64, at a peak of less than half: four of (N, 40), and a chunk."""
    monkeypatch.setattr(covariance, "RANK", 8)
    np.save(tmp_path / "x.npy", np.tile(images(100), (6, 1)))
    stored = np.load(tmp_path / "x.npy", mmap_mode="r")
    y = stored[:, :: N // 5].astype(np.float64)

    def chunks():
        for i in range(0, len(stored), 16):
            yield y[i : i + 16], stored[i : i + 16].astype(np.float64)

    tracemalloc.start()
    try:
        prior = fit(chunks, conditional=False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert prior.factor.size == N
    assert peak < 4 * stored.size


def test_a_regression_of_many_numbers_on_many_is_refused():
    wide = np.zeros((3, 12000))
    with pytest.raises(ValueError, match=r"a regression of 12000 numbers on 12000 takes matrices of 1\.1 GB"):
        fit(lambda: [(wide, wide)], conditional=True)
