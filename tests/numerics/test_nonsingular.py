"""Proofs that I + D K is regular: never where some D makes it singular, and always where few D decide it."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_invert.numerics.nonsingular import proven


@pytest.mark.parametrize("seed", range(60))
def test_what_is_proven_holds(seed: int) -> None:
    """At many D within the ends, and at all corners, the determinant has one sign wherever a proof is given."""
    rng = np.random.default_rng(seed)
    m = int(rng.integers(1, 6))
    k = rng.standard_normal((m, m)) * rng.uniform(0.2, 2.0)
    low, high = np.sort(rng.uniform(-0.3 if seed % 3 == 0 else 0.0, 1.0, (2, m)), axis=0)
    corners = (np.arange(2**m)[:, None] >> np.arange(m)) & 1
    drawn = np.concatenate([np.where(corners, high, low), rng.uniform(low, high, (2000, m))])
    signs = np.sign(np.linalg.det(np.eye(m) + drawn[:, :, None] * k))
    one = bool(np.all(signs == signs[0]) and signs[0] != 0)
    # det is linear in each of D's entries: its extremes lie at the corners, so that m ≤ 12 is always decided.
    assert bool(proven(k, low, high)) == one


def test_triangular_matrices_of_any_size() -> None:
    """Sylvester flows: K is a product of two triangular matrices, its diagonal above −1."""
    rng = np.random.default_rng(0)
    upper = np.triu(rng.uniform(-0.2, 0.2, (40, 40)), 1)
    k = upper + np.diag(rng.uniform(-0.9, 0.9, 40))
    noise = 1e-8 * rng.standard_normal((40, 40))  # orthonormal to rounding only
    assert proven(k + noise, np.zeros(40), np.ones(40))
    k[3, 3] = -1.1
    assert not proven(k + noise, np.zeros(40), np.ones(40))


def test_monotone_matrices_of_any_size() -> None:
    """x + Wᵀ h(W x), however large W: the symmetric part is not negative."""
    w = np.random.default_rng(0).standard_normal((80, 30))
    assert proven(w @ w.T, np.zeros(80), np.ones(80))
    assert not proven(-w @ w.T, np.zeros(80), np.ones(80))


def test_the_limit_itself_is_not_proven() -> None:
    assert proven(np.array([[-0.999]]), np.zeros(1), np.ones(1))
    assert not proven(np.array([[-1.0]]), np.zeros(1), np.ones(1))
