"""Resizing against differences: every coordinate transformation and rounding, sizes and scales, up and down."""

import numpy as np
import onnx.parser
import pytest
from differences import at_old_opset, hold_in_onnxruntime, session
from finite_differences import X, draw, hold, ints, one_node
from onnx import numpy_helper

import onnx_invert
from onnx_invert.errors import NotInvertibleError

COORDINATES = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


def scales(*values):
    return np.array(values, dtype=np.float32)


def resize(x, *operands, opset=17, dtype=np.float64, batched=True, **attributes):
    """A Resize; its scales are float32 whatever x is."""
    model, values = one_node("Resize", X(x, batched), *operands, opset=opset, dtype=dtype, **attributes)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.DOUBLE:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    return model, values


# Of 4 places, so that the reference evaluator does not calculate with a fraction of a place.
GROWN = [(2.0, 1.5), (0.5, 0.75), (2.5, 0.25)]


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_nearest(coordinates, rounding):
    options = {"mode": "nearest", "coordinate_transformation_mode": coordinates, "nearest_mode": rounding}
    for grown in GROWN:
        hold(*resize(draw(1, 1, 4, 4), None, scales(1, 1, *grown), **options))
    for grown in ((2.7, 0.4), (0.3, 1.7), (2.0, 0.5)):
        hold_in_onnxruntime(*resize(draw(1, 1, 5, 4), None, scales(1, 1, *grown), dtype=np.float32, **options))


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("coordinates", [*COORDINATES, "half_pixel_symmetric"])
def test_interpolated(mode, coordinates):
    opset = 19 if coordinates == "half_pixel_symmetric" else 17
    options = {"mode": mode, "coordinate_transformation_mode": coordinates, "opset": opset}
    # Where one place is left, the reference evaluator takes pytorch_half_pixel's at −1/2 and not, as is written, at 0.
    for grown in GROWN[: 2 if coordinates == "pytorch_half_pixel" else 3]:
        hold(*resize(draw(1, 1, 4, 4), None, scales(1, 1, *grown), **options))
    for grown in ((2.7, 0.4), (0.3, 1.7), (2.0, 0.5)):
        hold_in_onnxruntime(*resize(draw(1, 1, 5, 4), None, scales(1, 1, *grown), dtype=np.float32, **options))


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_sizes(mode):
    hold(*resize(draw(1, 1, 3, 4), None, None, ints(1, 1, 5, 3), mode=mode, batched=False))


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
def test_aspect_ratio(policy):
    operands = (draw(2, 1, 3, 4), None, None, ints(7, 5))
    options = {"mode": "linear", "axes": [2, 3], "keep_aspect_ratio_policy": policy, "opset": 18}
    hold(*resize(*operands, **options))
    hold_in_onnxruntime(*resize(*operands, dtype=np.float32, **options))


def test_cubic_options():
    for options in ({"cubic_coeff_a": -0.5}, {"exclude_outside": 1}, {"exclude_outside": 1, "cubic_coeff_a": -0.6}):
        operands = (draw(2, 1, 4, 5), None, scales(1, 1, 1.5, 2))
        hold(*resize(*operands, mode="cubic", **options))
        hold_in_onnxruntime(*resize(*operands, dtype=np.float32, mode="cubic", **options))


@pytest.mark.parametrize("image", [(4,), (2, 3, 2)], ids=str)
def test_other_ranks(image):
    operands = (draw(2, 2, *image), None, scales(1, 1, *[2.0, 1.5, 0.5][: len(image)]))
    hold(*resize(*operands, mode="linear"))
    hold(*resize(*operands, mode="nearest"))


def test_channels_too():
    hold(*resize(draw(2, 2, 3), None, scales(1, 1.5, 2), mode="nearest"))


def test_sizes_of_a_batch_known_only_at_run_time():
    """As PyTorch exports it: the batch is read off the input, the image is constant."""
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (double[N,2,3,4] x) => (double[N,2,6,7] y) <int64[2] image = {6, 7}, int64[1] a = {0}, int64[1] b = {2}> {
            shape = Shape(x)
            lead = Slice(shape, a, b)
            sizes = Concat<axis=0>(lead, image)
            y = Resize<mode="linear">(x, , , sizes)
        }
    """)
    hold(model, {"x": draw(3, 2, 3, 4)})


@pytest.mark.parametrize(
    ("attributes", "message"),
    [({"antialias": 1}, "antialiased"), ({"coordinate_transformation_mode": "tf_crop_and_resize"}, "region")],
)
def test_refusals(attributes, message):
    model, _ = resize(
        draw(1, 1, 4, 4), scales(0, 0, 0, 0, 1, 1, 1, 1), scales(1, 1, 0.5, 0.5), opset=18, mode="linear", **attributes
    )
    with pytest.raises(NotInvertibleError, match=message):
        onnx_invert.jacobian(model)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("opset", [7, 9])
def test_upsample(opset, mode):
    """No derivative can be written in its opset; what the rule says is held to onnxruntime."""
    grown, x = [1.0, 1.0, 1.0, 2.5], np.eye(3, dtype=np.float32).reshape(3, 1, 1, 3)
    body = f'Upsample<mode="{mode}", scales={grown}>(x)' if opset == 7 else f'Upsample<mode="{mode}">(x, s)'
    constants = [] if opset == 7 else [scales(*grown)]
    model = onnx.parser.parse_model(f"""
        <ir_version: 4, opset_import: ["" : {opset}]>
        g (float[3,1,1,3] x{", float[4] s" if constants else ""}) => (float[3,1,1,7] y) {{ y = {body} }}
    """)
    (y,) = session(model).run(None, {"x": x, **({"s": constants[0]} if constants else {})})
    extra = {"scales": grown} if opset == 7 else {}
    one = x[0].astype(np.float64)[None], y[0].astype(np.float64)[None]
    for found in at_old_opset("Upsample", opset, *one, *constants, mode=mode, **extra):
        np.testing.assert_allclose(found, y.reshape(3, 7).T, atol=1e-6)
