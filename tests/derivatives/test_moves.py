"""What moves, repeats or drops elements, against differences."""

import numpy as np
import onnx
import pytest
from differences import at_old_opset, in_onnxruntime
from finite_differences import X, check, draw, hold, ints, one_node, run
from onnx.reference import ReferenceEvaluator

import onnx_invert
from onnx_invert.errors import NotInvertibleError


def refuses(reason, op, *operands, **arguments):
    model, _ = one_node(op, *operands, **arguments)
    with pytest.raises(NotInvertibleError, match=reason):
        onnx_invert.jacobian(model)


def text(body, opset=17):
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {body}')


@pytest.mark.parametrize(
    ("op", "operands", "attributes"),
    [
        ("Identity", (), {}),
        ("Dropout", (), {}),
        ("Dropout", (np.array(0.5), np.array(False)), {}),
        ("Cast", (), {"to": onnx.TensorProto.DOUBLE}),
        ("CastLike", (np.array(1.0),), {}),
        ("Reshape", (ints(0, 3, 4, 1),), {}),
        ("Reshape", (ints(-1, 12),), {}),
        ("Flatten", (), {}),
        ("Flatten", (), {"axis": 2}),
        ("Unsqueeze", (ints(1, -1),), {}),
        ("Transpose", (), {}),
        ("Transpose", (), {"perm": [0, 2, 1]}),
        ("Tile", (ints(1, 1, 1),), {}),
        ("Tile", (ints(1, 3, 2),), {}),
        ("Trilu", (), {}),
        ("Trilu", (ints(1).reshape(()),), {"upper": 0}),
        ("Trilu", (ints(-1).reshape(()),), {}),
    ],
    ids=str,
)
def test_moves(op, operands, attributes):
    batched = not (op == "Transpose" and not attributes) and not (op == "Flatten" and attributes)
    check(op, X(draw(4, 2, 6), batched), *operands, **attributes)


def test_reshape_of_all_samples():
    check("Reshape", X(draw(4, 2, 6), False), ints(3, -1, 2))


def test_squeeze():
    check("Squeeze", X(draw(3, 1, 2, 1)), ints(1, -1))
    check("Squeeze", X(draw(1, 3, 1), False))


def test_a_shape_made_at_run_time():
    model = text("""
        g (double[N,2,3] x) => (double[N,6] y) {
            shape = Shape(x)
            zero = Constant<value_ints = [0]>()
            rest = Constant<value_ints = [-1]>()
            count = Gather(shape, zero)
            target = Concat<axis = 0>(count, rest)
            h = Reshape(x, target)
            z = Tanh(h)
            six = Constant<value_ints = [-1, 6]>()
            y = Reshape(z, six)
        }""")
    hold(model, {"x": draw(4, 2, 3)})


def test_several_sizes_known_only_at_run_time():
    model = text("""
        g (double[N,2,3] x) => (double[N,6] y) {
            shape = Shape(x)
            h = Reshape(x, shape)
            one = Constant<value_ints = [1]>()
            u = Unsqueeze(h, one)
            z = Sin(u)
            back = Reshape(z, shape)
            six = Constant<value_ints = [-1, 6]>()
            y = Reshape(back, six)
        }""")
    hold(model, {"x": draw(4, 2, 3)})


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(mode):
    check("DepthToSpace", X(draw(2, 8, 2, 3)), blocksize=2, mode=mode)


def test_space_to_depth():
    check("SpaceToDepth", X(draw(2, 3, 4, 6)), blocksize=2)


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("attributes", [{}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}], ids=str)
def test_cum_sum(axis, attributes):
    check("CumSum", X(draw(2, 3, 4)), np.array(axis), **attributes)


def test_expand():
    check("Expand", X(draw(3, 1, 4)), ints(1, 5, 1))
    check("Expand", X(draw(2, 1), False), ints(3, 1, 4))


def test_expand_to_a_shape_made_at_run_time():
    model = text("""
        g (double[N,4] x) => (double[N,4] y) {
            last = Constant<value_ints = [-1]>()
            shape = Shape(x)
            sum = ReduceSum(x, last)
            root = Sin(sum)
            wide = Expand(root, shape)
            y = Mul(x, wide)
        }""")
    hold(model, {"x": draw(3, 4)})


@pytest.mark.parametrize("axis", [1, 2, -1, -2])
def test_concat(axis):
    check("Concat", X(draw(2, 2, 3)), X(draw(2, 2, 3)), axis=axis)
    check("Concat", X(draw(2, 2, 3), False), draw(2, 2, 3), X(draw(2, 2, 3), False), axis=axis)


def test_concat_of_samples():
    check("Concat", draw(1, 3), X(draw(2, 3), False), axis=0)


def test_concat_of_a_tensor_with_itself():
    model = text("g (double[N,3] x) => (double[N,9] y) { h = Exp(x) y = Concat<axis = -1>(h, x, h) }")
    hold(model, {"x": draw(2, 3)})


@pytest.mark.parametrize(
    ("opset", "operands", "attributes", "outputs"),
    [
        (17, (ints(2, 1, 4),), {}, 3),
        (17, (), {}, 1),
        (17, (), {}, 7),
        (18, (), {"num_outputs": 3}, 3),
        (18, (), {"num_outputs": 7}, 7),
    ],
    ids=str,
)
@pytest.mark.parametrize("axis", [1, -1])
def test_split(opset, operands, attributes, outputs, axis):
    x = X(draw(3, 7) if axis == 1 else draw(3, 2, 7))
    given = dict(opset=opset, outputs=outputs, axis=axis, **attributes)
    check("Split", x, *operands, of=tuple(range(outputs)), **given)
    check("Split", x, *operands, of=(outputs - 1,), **given)


END, START = 2**63 - 1, -(2**63)


@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps"),
    [
        ([1], [3], [1], [1]),
        ([0, 1], [END, END], [1, 2], None),
        ([0, -3], [2, -1], [1, 2], None),
        ([-1], [START], [2], [-1]),
        ([4, 3], [0, START], [2, 1], [-2, -1]),
        ([0], [END], [2], [3]),
        ([0], [END], [0], None),
        ([1], [1000], [-1], [2]),
        ([-1000], [2**31 - 1], [-1], [1]),
        ([0, 0, 2], [END, 2, 4], None, None),
    ],
    ids=str,
)
def test_slice(starts, ends, axes, steps):
    operands = [None if values is None else ints(*values) for values in (starts, ends, axes, steps)]
    while operands[-1] is None:
        operands.pop()
    check("Slice", X(draw(3, 4, 6)), *operands)


def test_slice_of_the_batch():
    check("Slice", X(draw(4, 3), False), ints(1), ints(-1), ints(0))


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize("widths", [(1, 2), (0, 1), (2, 0), (0, 0)], ids=str)
def test_pad(mode, widths):
    check("Pad", X(draw(2, 3, 4)), ints(0, 1, widths[0], 0, 0, widths[1]), mode=mode, opset=19)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
@pytest.mark.parametrize("widths", [(-1, 1), (-1, -2), (2, -1)], ids=str)
def test_pads_that_cut(mode, widths):
    in_onnxruntime("Pad", X(draw(2, 2, 4)), ints(0, 0, widths[0], 0, 0, widths[1]), mode=mode)


def test_pad_along_given_axes():
    check("Pad", X(draw(2, 3, 4)), ints(1, 2, 0, 1), np.array(0.5), ints(-1, 1), opset=18)
    check("Pad", X(draw(2, 3), False), ints(1, 2, 0, 1), np.array(0.5))


def test_wide_edges_are_added_up():
    check("Pad", X(draw(2, 3)), ints(0, 7, 0, 9), mode="edge")


@pytest.mark.parametrize("axis", [1, 2, -1])
@pytest.mark.parametrize(
    "indices",
    [
        np.array(1),
        np.array(-1),
        ints(2, 0, 1),
        ints(0, 2),
        ints(-1, -2),
        ints(1, 1, 0),
        ints(*[0] * 9, 2),
        ints(1, 2),
        np.array([[0, 2], [1, 1]], dtype=np.int32),
    ],
    ids=str,
)
def test_gather(axis, indices):
    check("Gather", X(draw(3, 3, 3)), indices, axis=axis)


def test_gather_from_the_first_axis():
    check("Gather", X(draw(4, 2), False), ints(3, 0, 0))
    check("Gather", X(draw(4), False), np.array(2))


def test_compress():
    model = text("""
        g (double[N,4] x) => (double[N,3] y) {
            kept = Constant<value = bool[4] {1, 0, 1, 1}>()
            shape = Constant<value_ints = [-1, 3]>()
            h = Compress<axis = 1>(x, kept)
            y = Reshape(h, shape)
        }""")
    hold(model, {"x": draw(2, 4)})


def test_gather_elements():
    check("GatherElements", X(draw(2, 4), False), np.array([[0, 2, -1, 2], [1, 1, 0, 0]]), axis=1)
    check("GatherElements", X(draw(3, 2), False), np.array([[0, 2], [-1, 2], [1, 1], [0, 0]]), axis=0)


def test_gather_elements_of_a_part():
    """Of fewer rows than there are, which the reference evaluator refuses."""
    x, indices = draw(3, 4), np.array([[3, 0], [1, 1]])
    rows, expected = np.arange(12).reshape(3, 4), np.zeros((4, 12))
    expected[np.arange(4), np.take_along_axis(rows[:2], indices, 1).reshape(-1)] = 1
    y = np.take_along_axis(x[:2], indices, 1)
    for found in at_old_opset("GatherElements", 13, x, y, indices, axis=1):
        np.testing.assert_array_equal(found, expected)


def test_gather_elements_that_sorting_chooses():
    model = text("""
        g (double[N,2,5] x) => (double[N,2,3] y) {
            k = Constant<value_ints = [3]>()
            v, i = TopK<largest = 0>(x, k)
            z = Exp(x)
            y = GatherElements<axis = 2>(z, i)
        }""")
    hold(model, {"x": draw(3, 2, 5)})


@pytest.mark.parametrize("axis", [1, 2])
def test_top_k(axis):
    check("TopK", X(draw(2, 4, 4)), ints(2), axis=axis, outputs=2)


@pytest.mark.parametrize(
    ("indices", "batch_dims"),
    [
        ([[0, 1], [2, 3], [-1, 0], [2, 3]], 0),
        ([[1], [0]], 0),
        ([[[1]], [[-1]], [[0]]], 1),
    ],
    ids=str,
)
def test_gather_nd(indices, batch_dims):
    check("GatherND", X(draw(3, 4, 2), False), np.array(indices), batch_dims=batch_dims)


@pytest.mark.parametrize("reduction", ["none", "add"])
def test_scatter_nd(reduction):
    indices = np.array([[1], [-1]])
    check("ScatterND", X(draw(4, 3), False), indices, draw(2, 3), reduction=reduction)
    check("ScatterND", X(draw(4, 3), False), indices, X(draw(2, 3), False), reduction=reduction)
    if reduction == "add":
        check("ScatterND", draw(4, 3), np.array([[1], [1]]), X(draw(2, 3), False), reduction=reduction)


@pytest.mark.parametrize("reduction", ["none", "add"])
def test_scatter_elements(reduction):
    indices = np.array([[0, 2], [1, 0]])
    check(
        "ScatterElements", X(draw(2, 3), False), indices, X(draw(2, 2), False), axis=1, reduction=reduction, opset=18
    )


def test_reverse_sequence():
    check("ReverseSequence", X(draw(4, 3, 2), False), ints(4, 4, 4))
    check("ReverseSequence", X(draw(4, 3, 2), False), ints(1, 4, 3))
    check("ReverseSequence", X(draw(3, 4), False), ints(2, 4, 1), batch_axis=0, time_axis=1)


def test_attributes_of_old_opsets():
    x = draw(2, 4)
    for old, now in (
        (("Slice", 9, (), {"starts": [1], "ends": [3], "axes": [1]}), ("Slice", (ints(1), ints(3), ints(1)), {})),
        (("Pad", 10, (), {"pads": [0, 1, 1, 0]}), ("Pad", (ints(0, 1, 1, 0),), {})),
        (("Split", 11, (), {"split": [4], "axis": 1}), ("Identity", (), {})),
    ):
        op, opset, constants, attributes = old
        model, values = one_node(now[0], X(x, False), *now[1], **now[2])
        (y,) = run(model, values)
        (expected,) = ReferenceEvaluator(onnx_invert.jacobian(model)).run(None, values)
        for found in at_old_opset(op, opset, x, y, *constants, **attributes):
            np.testing.assert_array_equal(found, expected[0])


def test_refusals():
    refuses("the size 'N' of axis 0, on which it works", "Concat", X(draw(3, 4)), draw(3, 4), axis=0)
    refuses("it mixes the samples of a batch", "CumSum", X(draw(3, 4)), np.array(0))
    refuses("the size 'N' of axis 0", "Slice", X(draw(3, 4)), ints(0), ints(2), ints(0))
    refuses("the size 'N' of axis 0", "Pad", X(draw(3, 4)), ints(1, 0, 1, 0), mode="reflect")
    refuses("the size 'N' of axis 0", "GatherND", X(draw(3, 4)), np.array([[0, 1]]))
    refuses("its reduction is 'mul'", "ScatterND", X(draw(3, 4), False), np.array([[1]]), draw(1, 4),
            reduction="mul", opset=18)  # fmt: skip
    refuses("it has no axis", "Compress", X(draw(3, 4)), np.array([True, False]))
    refuses("its padding value depends on the unknown", "Pad", draw(3, 4), ints(0, 1, 0, 1), X(np.array(1.0), False))
    model = text("g (double[N,4] x, int64[2] i) => (double[N,2] y) { y = Gather<axis = 1>(x, i) }")
    with pytest.raises(NotInvertibleError, match="its indices are known only at run time"):
        onnx_invert.jacobian(model)
    model = text("g (double[N,4] x, int64[2] r) => (double[N,M] y) { y = Tile(x, r) }")
    with pytest.raises(NotInvertibleError, match="its repeats are known only at run time"):
        onnx_invert.jacobian(model)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_rows_of_a_sample_behind_a_node_that_samples_are_not_followed_through(mode):
    model = text(
        "g (double[N,4] x) => (double[M,3] y) <int64[2] s = {-1, 2}, int64[4] p = {0, 0, 0, 1}> "
        "{ a = Tanh(x)  b = Reshape(a, s)  c = Pad(b, p)  y = Add(c, c) }"
    )
    x = np.random.default_rng(4).standard_normal((3, 4))
    (found,) = run(onnx_invert.jacobian(model, mode=mode), {"x": x})
    expected = np.zeros((3, 2, 3, 4))
    for i in range(4):
        expected[:, i // 2, i % 2, i] = 2 / np.cosh(x[:, i]) ** 2
    np.testing.assert_allclose(found, expected.reshape(3, 6, 4), rtol=1e-9)
