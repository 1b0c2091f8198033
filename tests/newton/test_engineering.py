"""Inverse kinematics and surrogates: several inputs and outputs, scalers, priors, and bounds for each element."""

import sys
from pathlib import Path

import numpy as np
import pytest
from arms import ELBOW, PLANAR, PUMA, SCARA, arm, reach
from solving import residuals, run

from onnx_invert import Guarantee, VerificationError, invert, rescue
from onnx_invert.samples import Port, draw

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
from train_surrogates import BOREHOLE_HIGH, BOREHOLE_LOW, borehole

DATA = Path(__file__).parents[1] / "data" / "newton"


def joints(links, count, seed=0):
    return np.random.default_rng(seed).uniform(-1.5, 1.5, (count, len(links))).astype(np.float32)


@pytest.mark.parametrize("links", [PLANAR, ELBOW, PUMA], ids=["planar", "elbow", "puma"])
def test_the_hand_reaches_every_position(links):
    """Not the same angles: an arm bends two ways."""
    model, q = arm(links), joints(links, 64)
    inversion = invert(model, data=q)
    assert inversion.guarantee in {Guarantee.RIGHT, Guarantee.GENERALIZED}
    assert inversion.round_trip.unsolved <= 1
    (position,) = run(model, q=q)
    (found,) = run(inversion.model, position=position)
    off = np.linalg.norm(reach(links, found)[:, :3, 3] - position, axis=1)
    assert np.sum(off > 1e-5) <= 1


def test_a_pose_of_two_outputs():
    """Position and rotation, twelve equations for three angles, which come back; constant entries do not weigh."""
    for links in (PLANAR, ELBOW):
        model, q = arm(links, rotation=True), joints(links, 64)
        inversion = invert(model, data=q)
        assert inversion.guarantee is Guarantee.LEFT
        assert inversion.round_trip.unsolved == 0
        position, rotation = run(model, q=q)
        np.testing.assert_allclose(run(inversion.model, position=position, rotation=rotation)[0], q, atol=1e-4)


def test_one_output_of_two_with_a_prior():
    model, q = arm(PUMA, rotation=True), joints(PUMA, 464)
    inversion = invert(model, known=["position"], prior=q[64:], data=q[:64])
    assert inversion.guarantee is Guarantee.RIGHT
    assert [value.name for value in inversion.model.graph.input] == ["position"]
    found = run(inversion.model, position=run(model, q=q[:64])[0])[0]
    assert np.abs(reach(PUMA, found)[:, :3, 3] - reach(PUMA, q[:64])[:, :3, 3]).max() < 1e-5
    assert np.mean(np.square(found - q[:64])) < 1.2 * np.var(q)


@pytest.mark.parametrize("recover", [["q0", "q1", "q2"], ["q1", "q2"]], ids=["all", "two"])
def test_a_joint_is_an_input(recover):
    model, q = arm(ELBOW, split=True), joints(ELBOW, 64)
    feeds = {f"q{i}": q[:, i : i + 1] for i in range(3)}
    inversion = invert(model, recover=recover, data=feeds, residual=True)
    assert [value.name for value in inversion.model.graph.output] == [*recover, "residual"]
    given = {name: feeds[name] for name in feeds if name not in recover}
    *found, told = run(inversion.model, position=run(model, **feeds)[0], **given)
    again = run(model, **given, **dict(zip(recover, found, strict=True)))[0]
    measured = residuals(again, run(model, **feeds)[0])
    np.testing.assert_allclose(told, measured, atol=1e-6)
    unsolved = np.sum(measured > 1e-5)
    assert unsolved <= 4
    assert (inversion.guarantee is Guarantee.APPROXIMATE) == (inversion.round_trip.unsolved > 0)


def test_joints_keep_their_limits():
    low, high = np.array([-1.6, -1.7, -1.8]), np.array([1.6, 1.7, 1.8])
    model, q = arm(ELBOW, rotation=True), joints(ELBOW, 64)
    inversion = invert(model, data=q, bounds=(low, high))
    assert inversion.round_trip.unsolved == 0
    position, rotation = run(model, q=q)
    np.testing.assert_allclose(run(inversion.model, position=position, rotation=rotation)[0], q, atol=1e-4)
    far = run(inversion.model, position=position + 1, rotation=rotation)[0]
    assert np.all((far >= low - 1e-6) & (far <= high + 1e-6))


def test_a_whole_turn_within_limits():
    """Solutions near the limits, most starts trapped at one: starts cover all between the limits alike."""
    model, limit = arm(SCARA, rotation=True), np.array([2.3, 2.5, np.pi])
    q = np.random.default_rng(0).uniform(-limit, limit, (512, 3)).astype(np.float32)
    inversion = invert(model, data=q[:64], bounds=(-limit, limit), samples=64)
    position, rotation = run(model, q=q)
    (found,) = run(inversion.model, position=position, rotation=rotation)
    assert (np.abs(found.astype(np.float64)) <= limit).all()
    again = run(model, q=found)
    for got, true in zip(again, (position, rotation), strict=True):
        assert residuals(got.reshape(512, -1), true.reshape(512, -1)).max() < 1e-6


def test_starts_lie_where_the_data_do():
    """Data far from 0 in numbers of several sizes: no start is drawn near 0, and none is a sample of the data."""
    low, high = np.array([100.0, -30.0, 0.01]), np.array([110.0, -20.0, 0.02])
    seen = {"q": np.random.default_rng(0).uniform(low, high, (200, 3)).astype(np.float32)}
    found = rescue._alike(seen, [Port("q", ("N", 3), np.dtype(np.float32))], "q", 1000)["q"]
    assert found.shape == (1000, 3)
    assert found.dtype == np.float32
    assert ((found >= seen["q"].min(axis=0)) & (found <= seen["q"].max(axis=0))).all()
    assert np.all(found.std(axis=0) > 0.15 * (high - low))
    assert not (found[:, None] == seen["q"][None]).all(axis=2).any()


def test_draws_between_ends_cover_them():
    port = Port("x", ("N", 2), np.dtype(np.float64))
    ends = {"x": (np.array([2.0, -1.0]), np.array([3.0, 1.0]))}
    (batch,) = draw([port], 4000, 0, "x", bounds=ends, even=True)
    share = (batch["x"] - ends["x"][0]) / (ends["x"][1] - ends["x"][0])
    np.testing.assert_allclose(
        np.quantile(share, [0.02, 0.25, 0.5, 0.75, 0.98], axis=0).T[0], [0.02, 0.25, 0.5, 0.75, 0.98], atol=0.02
    )


def test_samples_beyond_the_bounds_are_told():
    """Each joint's own limit; those samples are not reached, which the error says too."""
    model, q = arm(PLANAR), joints(PLANAR, 64)
    low, high = np.array([-0.9, -2.0]), np.array([0.9, 2.0])
    outside = int(np.sum(np.abs(q[:, 0]) > 0.9))
    with pytest.raises(VerificationError) as error:
        invert(model, data=q, bounds=(low, high))
    assert error.value.inversion.notes == (
        f"{outside} of 64 samples lie beyond --bounds: if no x within has their y, that y is not reached",
    )
    inside = q[np.abs(q[:, 0]) <= 0.9]
    assert invert(model, data=inside, bounds=(low, high), force=True).notes == ()


@pytest.mark.parametrize("prior", [None, "gaussian", "conditional"])
@pytest.mark.parametrize("bounded", [False, True])
def test_a_surrogate_of_eight_scales(prior, bounded):
    """Ranges from 0.1 to 52,545, one output: the family of designs is cut at a plausible one, or within its ranges."""
    path = DATA / "surrogate_borehole.onnx"
    rng = np.random.default_rng(1)
    x = rng.uniform(BOREHOLE_LOW, BOREHOLE_HIGH, (300, 8)).astype(np.float32)
    options = {"bounds": (BOREHOLE_LOW, BOREHOLE_HIGH)} if bounded else {}
    if prior is not None:
        options |= {"prior": x[50:], "prior_kind": prior}
    inversion = invert(path, data=x[:50], method="newton", **options)
    assert inversion.guarantee is Guarantee.RIGHT
    assert inversion.round_trip.unsolved == 0
    y = run(path, X=x[:50])[0]
    found = run(inversion.model, variable=y)[0].astype(np.float64)
    scale = BOREHOLE_HIGH - BOREHOLE_LOW
    if bounded:
        assert np.all((found >= BOREHOLE_LOW - 1e-6 * scale) & (found <= BOREHOLE_HIGH + 1e-6 * scale))
    if bounded or prior:
        # The surrogate is good where it was trained, so the flow itself is the one that was asked for.
        assert np.abs(borehole(found) - y).max() < 0.25
    if prior:
        assert np.sqrt(np.mean(np.square((found - x[:50]) / scale))) < 0.35


def test_an_arm_that_a_network_has_learnt():
    path = DATA / "surrogate_arm.onnx"
    q = np.random.default_rng(2).uniform([-2.0, 0.1, 0.2], [2.0, 1.5, 2.2], (464, 3)).astype(np.float32)
    inversion = invert(path, prior=q[64:], data=q[:64])
    assert inversion.guarantee is Guarantee.RIGHT
    assert inversion.round_trip.unsolved == 0
    found = run(inversion.model, variable=run(path, X=q[:64])[0])[0]
    assert np.median(np.abs(found - q[:64])) < 1e-4
