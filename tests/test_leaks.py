"""What leaks: estimates against scikit-learn and numpy, dimensions by hand, and what is left out."""

import json
import sys
from importlib.resources import files as resources

import jsonschema
import numpy as np
import onnx
import onnx.parser
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge, RidgeCV

import onnx_invert
from onnx_invert import leakage
from onnx_invert.cli import main
from onnx_invert.numerics.ridge import STRENGTHS, Moments, Sketch

RNG = np.random.default_rng(4)
SCHEMA = json.loads(resources("onnx_invert.report").joinpath("schema.json").read_text())


def text(body, inputs="float[N,8] x", outputs="float[N,3] y", weights="", opset=17):
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs}) => ({outputs}) {weights} {{ {body} }}'
    )


def weighted(body, outputs="float[N,3] y", width=8, dtype="float", **arrays):
    model = text(body, f"{dtype}[N,{width}] x", outputs)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in arrays.items())
    return model


def split(count):
    """Fitted rows, held-out rows: as the measuring draws them."""
    held = np.random.default_rng(leakage.SEED).random(count) < leakage.HELD_OUT
    held[0], held[1] = True, False
    return ~held, held


def explained(x, guess, mean):
    return 1 - np.sum(np.square(x - guess)) / np.sum(np.square(x - mean))


def moments(h, x):
    found = Moments(h.shape[1], x.shape[1])
    for start in range(0, len(h), 37):
        found.add(h[start : start + 37], x[start : start + 37])
    return found


def test_the_estimate_is_scikit_learns_ridge():
    h = RNG.standard_normal((300, 7)) @ RNG.standard_normal((7, 12)) + 100
    x = h[:, :4] * [1, 2, 3, 4] + RNG.standard_normal((300, 4)) - 50
    found = moments(h, x).estimate()
    theirs = Ridge(alpha=found.alpha).fit(h, x)
    assert np.allclose(found(h), theirs.predict(h), rtol=1e-8, atol=1e-8)


def test_the_strength_is_the_one_of_least_generalised_cross_validation():
    h = RNG.standard_normal((80, 40))
    x = h[:, :3] + 3 * RNG.standard_normal((80, 3))
    found = moments(h, x).estimate()
    centred, target = h - h.mean(axis=0), x - x.mean(axis=0)
    values = np.linalg.eigvalsh(centred.T @ centred)
    scores = []
    for alpha in STRENGTHS * values.mean():
        hat = centred @ np.linalg.solve(centred.T @ centred + alpha * np.eye(40), centred.T)
        scores.append(np.sum(np.square(target - hat @ target)) / (len(h) - 1 - np.trace(hat)) ** 2)
    assert np.isclose(found.alpha, STRENGTHS[np.argmin(scores)] * values.mean())
    # Leaving one out, which it approximates, chooses as well on new rows.
    new = RNG.standard_normal((4000, 40))
    theirs = RidgeCV(STRENGTHS * values.mean()).fit(h, x)
    mine, other = (np.mean(np.square(new[:, :3] - guess)) for guess in (found(new), theirs.predict(new)))
    assert mine < 1.1 * other


def test_a_sketch_keeps_squares():
    rows = RNG.standard_normal((200, 5000))
    ratio = np.sum(np.square(Sketch(5000, 1024)(rows)), axis=1) / np.sum(np.square(rows), axis=1)
    assert abs(ratio.mean() - 1) < 0.01
    assert ratio.std() < 1.5 * np.sqrt(2 / 1024)


def test_a_matrix_loses_what_least_squares_says():
    w = RNG.standard_normal((8, 3)).astype(np.float32)
    x = (RNG.standard_normal((500, 8)) @ RNG.standard_normal((8, 8)) + 3).astype(np.float32)
    (row,) = onnx_invert.leaks(weighted("y = MatMul(x, w)", w=w), x).rows
    fit, held = split(500)
    h = np.hstack([x @ w, np.ones((500, 1))]).astype(np.float64)
    best = np.linalg.lstsq(h[fit], x[fit].astype(np.float64), rcond=None)[0]
    guess = h[held] @ best
    assert np.isclose(row.explained, explained(x[held], guess, x[fit].mean(axis=0)), atol=1e-4)
    assert np.isclose(row.error, np.mean(np.square(x[held] - guess)), rtol=1e-3)
    assert (row.numbers, row.dimensions, row.lost) == (3, 3, 5)
    assert np.isclose(row.lost_variance, 1 - row.explained)


def test_principal_components_explain_their_share():
    x = (RNG.standard_normal((4000, 20)) * np.logspace(0, -1.5, 20)) @ np.linalg.qr(RNG.standard_normal((20, 20)))[0]
    pca = PCA(6).fit(x)
    model = weighted(
        "c = Sub(x, m) y = MatMul(c, w)",
        "double[N,6] y",
        width=20,
        dtype="double",
        m=pca.mean_,
        w=np.ascontiguousarray(pca.components_.T),
    )
    rows = onnx_invert.leaks(model, x).rows
    assert rows[0].explained > 1 - 1e-9
    assert np.isclose(rows[1].explained, pca.explained_variance_ratio_.sum(), atol=0.01)


def test_a_bottleneck_counts_for_all_that_lies_behind_it():
    a = RNG.standard_normal((8, 3)).astype(np.float32)
    b, c = RNG.standard_normal((2, 3, 6)).astype(np.float32)
    model = weighted(
        """h = MatMul(x, a) p = MatMul(h, b) q = MatMul(h, c) r = Tanh(q) s = Concat<axis = 1>(p, r)
        z = Add(p, r) y = Concat<axis = 1>(s, z)""",
        "float[N,18] y",
        a=a,
        b=b,
        c=c,
    )
    found = onnx_invert.leaks(model, RNG.standard_normal((60, 8)).astype(np.float32))
    assert {row.tensor: row.dimensions for row in found.rows} == dict.fromkeys("hpqrszy", 3)
    assert [row.lost for row in found.rows] == [5, 0, 0, 0, 0, 0, 0]


def test_what_a_function_makes_linear_again_is_found_again():
    x = RNG.standard_normal((800, 8)).astype(np.float32)
    first, second = onnx_invert.leaks(text("a = Exp(x) y = Log(a)", outputs="float[N,8] y"), x).rows
    assert first.explained < 0.8
    assert second.explained > 1 - 1e-9
    assert np.isclose(second.lost_variance, first.explained - second.explained)


def test_networks_that_have_no_inverse():
    x = RNG.standard_normal((200, 8)).astype(np.float32)
    model = text(
        """a = Floor(x) b = ReduceSum<keepdims = 1>(a, axes) k = ArgMax<axis = 1, keepdims = 1>(a)
        y = Cast<to = 1>(k)""",
        outputs="float[N,1] y, float[N,1] b",
        weights="<int64[1] axes = {1}>",
    )
    with pytest.raises(onnx_invert.NotInvertibleError):
        onnx_invert.explain(model, method="closed-form")
    rows = {row.op: row for row in onnx_invert.leaks(model, x).rows}
    assert 0.8 < rows["Floor"].explained < 0.95  # 1/12 of 1 + 1/12 is what rounding adds
    assert 0 < rows["ArgMax"].explained < rows["Floor"].explained


def test_layers_without_samples_in_front_are_left_out():
    x = RNG.standard_normal((50, 8)).astype(np.float32)
    model = text("t = Transpose<perm = [1, 0]>(x) e = Exp(t) u = Transpose<perm = [1, 0]>(e) y = Neg(u)",
                 outputs="float[N,8] y")  # fmt: skip
    found = onnx_invert.leaks(model, x)
    assert [row.op for row in found.rows] == ["Neg"]
    assert "no axis of samples" in " ".join(found.notes)


def test_what_is_not_finite_is_left_out():
    x = RNG.standard_normal((50, 8)).astype(np.float32)
    found = onnx_invert.leaks(text("a = Log(x) y = Relu(x)", outputs="float[N,8] y, float[N,8] a"), x)
    assert [row.op for row in found.rows] == ["Relu"]
    assert "not finite" in " ".join(found.notes)


def test_what_has_another_size_with_other_data_is_left_out():
    """The samples that are tried have eight ones each, as if it were laid out by samples; the others differ."""
    x = np.repeat(RNG.integers(0, 2, (60, 1)), 8, axis=1).astype(np.float32)
    for count in leakage.PROBED:
        x[np.linspace(0, 59, count).astype(int)] = 1
    model = text(
        """f = Reshape(x, s) n = NonZero(f) c = Cast<to = 1>(n) z = Mul(c, o)
        t = Transpose<perm = [1, 0]>(z) y = Relu(x)""",
        outputs="float[N,8] y, float[M,1] t",
        weights="<int64[1] s = {-1}, float o = {0}>",
    )
    found = onnx_invert.leaks(model, x)
    assert [row.op for row in found.rows] == ["Relu"]
    assert "depends on the data" in " ".join(found.notes)


def test_a_tensor_of_as_many_rows_as_there_are_samples():
    """Its own four rows look like samples wherever four are tried: they are all alike."""
    x = RNG.standard_normal((60, 8)).astype(np.float32)
    model = text("m = ReduceMax<keepdims = 1>(x) t = Expand(m, s) y = Relu(x)",
                 outputs="float[N,8] y, float[4,1] t", weights="<int64[2] s = {4, 1}>")  # fmt: skip
    found = onnx_invert.leaks(model, x)
    assert [row.op for row in found.rows] == ["Relu"]
    assert "no axis of samples" in " ".join(found.notes)


def test_chunks_and_groups_change_nothing(monkeypatch, models):
    x = RNG.uniform(size=(120, 784)).astype(np.float32)
    whole = onnx_invert.leaks(models / "mnist_mlp.onnx", x)
    monkeypatch.setattr(leakage, "MEMORY", 1 << 17)
    parts = onnx_invert.leaks(models / "mnist_mlp.onnx", x)
    for one, other in zip(whole.rows, parts.rows, strict=True):
        assert np.isclose(one.explained, other.explained, atol=1e-6)
        assert one.dimensions == other.dimensions


def test_wide_layers_and_a_large_x_are_projected(monkeypatch):
    w = RNG.standard_normal((8, 200)).astype(np.float32)
    model = weighted("h = MatMul(x, w) y = Tanh(h)", "float[N,200] y", w=w)
    x = RNG.standard_normal((400, 8)).astype(np.float32)
    exact = onnx_invert.leaks(model, x).rows
    monkeypatch.setattr(leakage, "WIDEST", 32)
    less = onnx_invert.leaks(model, x)
    assert less.rows[0].projected
    assert less.rows[0].explained > 1 - 1e-4  # linear in 8 numbers, of which a projection to 32 keeps all
    assert less.rows[1].explained <= exact[1].explained + 0.01
    monkeypatch.undo()
    large = RNG.standard_normal((300, 5000)) * np.linspace(0, 1, 5000)
    half = weighted(
        "y = Slice(x, s, e, i)", "float[N,2500] y", width=5000, s=np.array([2500]), e=np.array([5000]), i=np.array([1])
    )
    monkeypatch.setattr(leakage, "WIDEST", 256)
    found = onnx_invert.leaks(half, large.astype(np.float32))
    # 200-odd samples of 2500 independent numbers: nothing can be learnt, and nothing is claimed.
    assert abs(found.rows[0].explained) < 0.1
    assert np.isclose(found.variance, 1 / 3, rtol=0.1)
    assert any("projected from 5000" in note for note in found.notes)


@pytest.mark.parametrize("batch", [1, 4])
def test_fixed_batches(batch):
    x = RNG.standard_normal((66, 8)).astype(np.float32)
    free = onnx_invert.leaks(text("y = Relu(x)", outputs="float[N,8] y"), x[: 66 // batch * batch])
    fixed = onnx_invert.leaks(text("y = Relu(x)", f"float[{batch},8] x", f"float[{batch},8] y"), x)
    assert np.isclose(free.rows[0].explained, fixed.rows[0].explained, atol=1e-9)
    assert np.isclose(free.rows[0].error, fixed.rows[0].error)
    assert fixed.fitted + fixed.held_out == 66 // batch * batch


def test_other_inputs_are_given():
    x = RNG.standard_normal((100, 8)).astype(np.float32)
    model = text("y = Add(x, c)", "float[N,8] x, float[N,8] c", "float[N,8] y")
    row = onnx_invert.leaks(model, {"x": x, "c": x[::-1].copy()}, recover=["x"]).rows[0]
    assert 0.3 < row.explained < 0.6


def test_several_inputs_count_together():
    """x is both; c = Concat(a, b) is dominated by neither, and what is behind one of them by that one."""
    a, b = (RNG.standard_normal((80, width)).astype(np.float32) for width in (3, 5))
    model = text("n = Neg(b) c = Concat<axis = 1>(a, n) y = Neg(c)", "float[N,3] a, float[N,5] b", "float[N,8] y")
    found = onnx_invert.leaks(model, {"a": a, "b": b}, recover=["a", "b"])
    assert [(row.op, row.dimensions) for row in found.rows] == [("Neg", 5), ("Concat", 8), ("Neg", 8)]
    assert found.rows[-1].explained > 0.999
    share = np.var(b[split(80)[1]], axis=0).sum() / (np.var(np.hstack([a, b])[split(80)[1]], axis=0).sum())
    assert abs(found.rows[0].explained - share) < 0.1


@pytest.mark.parametrize(
    ("body", "message"), [("y = Identity(x)", "does more than move numbers"), ("y = Log(x)", "not finite on the data")]
)
def test_nothing_to_measure(body, message):
    with pytest.raises(onnx_invert.UsageError, match=message):
        onnx_invert.leaks(text(body, outputs="float[N,8] y"), -np.ones((20, 8), np.float32) * np.arange(20)[:, None])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((50, 8), np.float32), "no variance"),
        (np.zeros((5, 8), np.float32), "10 are needed"),
        (np.full((50, 8), np.nan, np.float32), "NaN"),
        (np.zeros((50, 9), np.float32), "the model takes"),
        (np.array(3, np.float32), "one number"),
    ],
)
def test_data_that_will_not_do(data, message):
    with pytest.raises(onnx_invert.UsageError, match=message):
        onnx_invert.leaks(text("y = Relu(x)", outputs="float[N,8] y"), data)


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", RNG.uniform(size=(60, 64)).astype(np.float32))

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return run


def test_the_command(call, models, tmp_path):
    model = models / "bijective.onnx"
    code, out, _ = call("explain", model, "--data", "x.npy", "--report", "r.json", "--chart", "c.png")
    assert code == 0
    assert "x explained" in out
    assert "few for layers" in out
    report = json.loads((tmp_path / "r.json").read_text())
    jsonschema.Draft202012Validator({"$ref": "#/$defs/leaks", "$defs": SCHEMA["$defs"]}).validate(report)
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    for _ in range(2):
        assert call("explain", model, "--data", "x.npy", "--chart", "c.svg", "--samples", "40")[0] == 0
        svg = (tmp_path / "c.svg").read_bytes()
    assert b"<svg" in svg
    call("explain", model, "--data", "x.npy", "--chart", "d.svg", "--samples", "40")
    assert (tmp_path / "d.svg").read_bytes() == svg


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--chart", "c.png"], "give --data"),
        (["--data", "x.npy", "--chart", "c.jpg"], ".png or .svg"),
        (["--data", "x.npy", "--method", "newton"], "--method"),
        (["--data", "x.npy", "--chart", "x.npy"], "x.npy"),
        (["--data", "none.npy"], "no file"),
    ],
)
def test_wrong_usage(options, message, call, models):
    code, _, err = call("explain", models / "bijective.onnx", *options)
    assert code == 2
    assert message in err


def test_the_extra_is_named(call, models, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = call("explain", models / "bijective.onnx", "--data", "x.npy", "--chart", "c.png")
    assert code == 2
    assert "onnx-invert[chart]" in err
