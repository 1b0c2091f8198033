"""Boolean indices as choices: the same outputs, and no rewriting where an element's place among the others counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

import onnx_invert
from onnx_invert.graph.indices import hold_indices
from onnx_invert.graph.normalise import normalise
from onnx_invert.graph.read import from_proto
from onnx_invert.graph.unpack import unpack
from onnx_invert.graph.write import to_proto
from onnx_invert.rules.rows import row_by_row

FLOWS = Path(__file__).parents[1] / "data" / "flows"

HEAD = '<ir_version: 9, opset_import: ["" : 18]> g (float[N,4] x) => (float[N,4] y)'

PLACES = "inside = Less(x, one)  outside = Not(inside)  found = NonZero(inside)  at = Transpose<perm=[1,0]>(found)"


def _text(body: str, constants: str = "") -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f"{HEAD} <float one = {{1}}, float zero = {{0}}, int64[1] flat = {{-1}}, int64[1] first = {{0}} {constants}> "
        f"{{ {body} }}"
    )


def _rewritten(model: onnx.ModelProto) -> tuple[bool, onnx.ModelProto]:
    source = from_proto(model)
    normalise(source)
    done = unpack(source.model, "the model", row_by_row)
    hold_indices(source.model)
    made = to_proto(source.model)
    onnx.checker.check_model(made, full_check=True)
    return done, made


def _outputs(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, {session.get_inputs()[0].name: x}))


def _drawn(width: int = 4, rows: int = 7) -> np.ndarray:
    x = np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32) * 2
    x[0] = 0.5
    x[1] = 3.0  # nothing inside
    return x


SAME = {
    "gather_nd": f"{PLACES}  p = GatherND(x, at)  q = Tanh(p)  y = ScatterND(x, at, q)",
    "complement": f"""{PLACES}  there = NonZero(outside)  to = Transpose<perm=[1,0]>(there)
        p = GatherND(x, at)  q = Exp(p)  s = Shape(x)  base = Expand(zero, s)  half = ScatterND(base, at, q)
        u = GatherND(x, to)  v = Sqrt(u)  y = ScatterND(half, to, v)""",
    "flat": """m = Less(x, one)  f = Reshape(m, flat)  found = NonZero(f)  i = Squeeze(found, first)
        all = Reshape(x, flat)  p = Gather(all, i)  q = Tanh(p)  r = ScatterElements(all, i, q)
        s = Shape(x)  y = Reshape(r, s)""",
    "compress": f"""{PLACES}  f = Reshape(inside, flat)  all = Reshape(x, flat)  p = Compress<axis=0>(all, f)
        q = Mul(p, p)  y = ScatterND(x, at, q)""",
    "whole_rows": """low = ReduceMin<keepdims=0>(x, last)  m = Less(low, one)  found = NonZero(m)
        at = Transpose<perm=[1,0]>(found)  p = GatherND(x, at)  q = Softmax<axis=1>(p)  y = ScatterND(x, at, q)""",
    "columns": f"""{PLACES}  a, b = Split<axis=1, num_outputs=2>(at)  both = Concat<axis=1>(a, b)
        p = GatherND(x, both)  q = Tanh(p)  y = ScatterND(x, at, q)""",
    "count": f"""{PLACES}  f = Reshape(inside, flat)  n = Cast<to=7>(f)  many = ReduceSum(n)
        five = Expand(one, many)  p = GatherND(x, at)  q = Mul(p, five)  y = ScatterND(x, at, q)""",
    "same_mask_twice": f"""{PLACES}  again = Less(x, one)  g = NonZero(again)  to = Transpose<perm=[1,0]>(g)
        p = GatherND(x, at)  h = Exp(x)  r = GatherND(h, to)  q = Add(p, r)  y = ScatterND(x, to, q)""",
    "lookup": f"""{PLACES}  p = GatherND(x, at)  c = Floor(p)  i = Cast<to=7>(c)  k = Add(i, three)
        q = Gather(table, k)  y = ScatterND(x, at, q)""",
}
CONSTANTS = {
    "whole_rows": ", int64[1] last = {1}",
    "lookup": ", int64 three = {20}, float[21] table = {" + ", ".join(str(i / 7) for i in range(21)) + "}",
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_comes_out(name: str) -> None:
    model = _text(SAME[name], CONSTANTS.get(name, ""))
    x = _drawn()
    done, made = _rewritten(model)
    assert done
    assert not {"NonZero", "Compress"} & {node.op_type for node in made.graph.node}
    (wanted,), (found,) = _outputs(model, x), _outputs(made, x)
    np.testing.assert_array_equal(found, wanted)
    with np.errstate(all="ignore"):
        (other,) = ReferenceEvaluator(made).run(None, {"x": x})
    np.testing.assert_allclose(other, wanted, rtol=1e-6)


KEPT = {
    "mean_of_all": f"{PLACES}  p = GatherND(x, at)  m = ReduceMean(p)  q = Sub(p, m)  y = ScatterND(x, at, q)",
    "sum_so_far": f"{PLACES}  p = GatherND(x, at)  q = CumSum(p, begin)  y = ScatterND(x, at, q)",
    "place_in_line": f"""{PLACES}  p = GatherND(x, at)  s = Shape(p)  n = Squeeze(s)  r = Range(begin, n, step)
        f = Cast<to=1>(r)  q = Add(p, f)  y = ScatterND(x, at, q)""",
    "share": f"""{PLACES}  p = GatherND(x, at)  s = Shape(p)  f = Cast<to=1>(s)  q = Div(p, f)
        y = ScatterND(x, at, q)""",
    "as_many_as_there_are": f"""{PLACES}  p = GatherND(x, at)  s = Shape(p)  w = Unsqueeze(p, second)
        wide = Expand(w, four)  cut = Slice(wide, first, s, second)  q = ReduceSum<keepdims=0>(cut, second)
        y = ScatterND(x, at, q)""",
    "two_masks": f"""{PLACES}  above = Less(zero, x)  g = NonZero(above)  to = Transpose<perm=[1,0]>(g)
        p = GatherND(x, at)  r = GatherND(x, to)  q = Add(p, r)  y = ScatterND(x, at, q)""",
    "the_first_one": f"""{PLACES}  p = GatherND(x, at)  q = ScatterND(p, corner, nought)
        y = ScatterND(x, at, q)""",
    "turned_round": f"""{PLACES}  p = GatherND(x, at)  q = Slice(p, back, far, first, back)
        y = ScatterND(x, at, q)""",
    "divided": f"""{PLACES}  p = GatherND(x, at)  i = Cast<to=7>(p)  j = Div(seven, i)  q = Cast<to=1>(j)
        y = ScatterND(x, at, q)""",
    "added": f'{PLACES}  p = GatherND(x, at)  q = Tanh(p)  y = ScatterND<reduction="add">(x, at, q)',
}
MORE = (
    ", int64 begin = {0}, int64 step = {1}, int64[1] second = {1}, int64[2] four = {1, 4}, int64[1,1] corner = {0}, "
    "float[1] nought = {0}, int64[1] back = {-1}, int64[1] far = {-9999999}, int64 seven = {7}"
)


@pytest.mark.parametrize("name", KEPT)
def test_what_tells_elements_apart_stays(name: str) -> None:
    model = _text(KEPT[name], MORE)
    onnx.checker.check_model(model, full_check=True)
    done, made = _rewritten(model)
    assert not done
    assert "NonZero" in {node.op_type for node in made.graph.node}


def test_a_packed_tensor_that_is_an_output_stays() -> None:
    model = onnx.parser.parse_model(
        f"""{HEAD.replace("(float[N,4] y)", "(float[N,4] y, float[K] p)")} <float one = {{1}}>
        {{ {PLACES}  p = GatherND(x, at)  y = ScatterND(x, at, p) }}"""
    )
    assert not _rewritten(model)[0]


FLOW_MODELS = sorted(
    path for path in FLOWS.glob("*.onnx") if any(n.op_type == "NonZero" for n in onnx.load(path).graph.node)
)


@pytest.mark.parametrize("path", FLOW_MODELS, ids=lambda path: path.stem)
def test_a_spline_of_a_library_stays_what_it_is(path: Path) -> None:
    """Inside and outside of the splines' intervals, and on their ends."""
    model = onnx.load(path)
    width = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    x = _drawn(width, 64)
    x[2:6] = np.array([-3, 3, 0, np.nextafter(np.float32(3), np.float32(4))], np.float32)[:, None]
    if "elementwise" in path.stem:  # a logit
        x = np.clip(np.abs(x) / 8, 0.01, 0.99)
    done, made = _rewritten(model)
    assert done
    assert "NonZero" not in {node.op_type for node in made.graph.node}
    for found, wanted in zip(_outputs(made, x), _outputs(model, x), strict=True):
        assert np.isfinite(wanted).all()
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=2e-6)


LEAKS = {
    # Outside of the mask the work is infinite, or not a number, and so are its derivatives.
    "root": """above = Less(zero, x)  found = NonZero(above)  at = Transpose<perm=[1,0]>(found)
        p = GatherND(x, at)  q = Sqrt(p)  r = Log(q)  y = ScatterND(x, at, r)""",
    "quotient": f"""{PLACES}  away = Sub(one, x)  d = GatherND(away, at)  h = Max(zero, x)
        p = GatherND(h, at)  r = Sqrt(d)  q = Div(p, r)  y = ScatterND(x, at, q)""",
}


@pytest.mark.parametrize("mode", ["forward", "reverse"])
@pytest.mark.parametrize("name", LEAKS)
def test_nothing_infinite_leaks_into_a_derivative(name: str, mode: str) -> None:
    """Against central differences in float64."""
    model = _text(LEAKS[name].replace("float one", "double one"))
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(float), tensor.name)
            )
    for port in (*model.graph.input, *model.graph.output):
        port.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    x = np.array([[-2.0, -0.5, 0.5, 3.0], [0.25, 0.75, 1.5, -1.0]])
    (found,) = _outputs(onnx_invert.jacobian(model, mode=mode), x)
    step = 1e-6
    columns = []
    for place in range(4):
        ends = [_outputs(model, x + side * step * np.eye(4)[place])[0] for side in (1, -1)]
        columns.append((ends[0] - ends[1]) / (2 * step))
    np.testing.assert_allclose(found, np.stack(columns, axis=-1), rtol=1e-6, atol=1e-8)


def test_an_index_is_held_where_no_rank_is_known() -> None:
    """`sizes` is an input of unknown length: neither the table's rank nor the index's follows, but their types do."""
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 18]> g (float[N,4] x, float[N,3] t, int64[R] at, int64[R] of)
        => (float[a,b] y) { r = Reshape(x, at) floor = Floor(r) i = Cast<to=7>(floor) table = Reshape(t, of)
            y = GatherElements<axis=-1>(table, i) }"""
    )
    source = from_proto(model)
    normalise(source)
    assert all(value.type is not None for node in source.model.graph for value in node.outputs)
    hold_indices(source.model)
    made = ort.InferenceSession(to_proto(source.model).SerializeToString(), providers=["CPUExecutionProvider"])
    t = np.array([[1, 2, 3]], np.float32)
    feeds = {"t": t, "at": np.array([1, 4]), "of": np.array([1, 3])}
    (y,) = made.run(None, feeds | {"x": np.array([[0.5, -0.5, 2.5, 1e6]], np.float32)})
    assert np.array_equal(y, [[1, 3, 3, 3]])  # −1 is the last; what lies beyond is held
    (y,) = made.run(None, feeds | {"x": np.array([[1.5, -3.0, -9.0, 0.0]], np.float32)})
    assert np.array_equal(y, [[2, 1, 1, 1]])
