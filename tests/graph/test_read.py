"""From a path, or an object, to a graph: what is accepted, and what the source says of it."""

import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_models import BIAS, WEIGHT, affine, external, save, text

import onnx_invert
from onnx_invert.errors import FileError, ModelError
from onnx_invert.graph import checks
from onnx_invert.graph.read import file_hash, from_proto, read

NEWEST = onnx.defs.onnx_opset_version()


def weights(source):
    return {name: value.const_value.numpy() for name, value in source.model.graph.initializers.items()}


@pytest.mark.parametrize("opset", range(checks.OLDEST_OPSET, NEWEST + 1))
def test_every_opset(opset, tmp_path):
    ir_version = helper.find_min_ir_version_for([helper.make_opsetid("", opset)])
    path = save(affine(opset, max(ir_version, 4)), tmp_path / "f.onnx")
    source = read(path)
    assert source.model.opset_imports[""] == opset
    plan = onnx_invert.explain(path)
    assert plan.guarantee is onnx_invert.Guarantee.BIJECTION


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 17, 18, 21, 22])
def test_opsets_are_inverted(opset, tmp_path):
    path = save(affine(opset, 8 if opset < 19 else 10), tmp_path / "f.onnx")
    assert onnx_invert.invert(path, tmp_path / "g.onnx").round_trip.passed


def test_the_weights_are_those_of_the_file(tmp_path):
    path = save(affine(), tmp_path / "f.onnx")
    for source in (read(path), from_proto(affine())):
        found = weights(source)
        np.testing.assert_array_equal(found["w"], WEIGHT)
        np.testing.assert_array_equal(found["b"], BIAS)


def test_names_and_hashes(tmp_path):
    path = save(affine(), tmp_path / "f.onnx")
    source = read(path)
    assert (source.name, source.path, source.files) == ("f.onnx", path, [])
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() == file_hash(path)
    model = affine()
    source = from_proto(model)
    assert (source.name, source.path) == ("the model", None)
    assert source.data == model.SerializeToString(deterministic=True)


def test_external_data_stays_in_its_file(tmp_path):
    path = external(tmp_path)
    source = read(path)
    tensor = source.model.graph.initializers["w"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    np.testing.assert_array_equal(tensor.numpy(), WEIGHT)
    assert source.files == [(tmp_path / "weights.bin").resolve()]


@pytest.mark.parametrize("entries", [{}, {"offset": 0}, {"length": 64}, {"offset": 0, "length": 64, "checksum": "a"}])
def test_what_an_external_tensor_may_state(entries, tmp_path):
    np.testing.assert_array_equal(weights(read(external(tmp_path, **entries)))["w"], WEIGHT)


def test_external_data_in_a_folder_below(tmp_path):
    path = external(tmp_path, location="sub/w.bin")
    (tmp_path / "sub").mkdir()
    (tmp_path / "weights.bin").rename(tmp_path / "sub" / "w.bin")
    np.testing.assert_array_equal(weights(read(path))["w"], WEIGHT)


def test_the_hash_covers_external_data(tmp_path):
    path = external(tmp_path)
    before = read(path).sha256
    assert before == file_hash(path) != hashlib.sha256(path.read_bytes()).hexdigest()
    (tmp_path / "weights.bin").write_bytes((WEIGHT * 2).tobytes())
    assert read(path).sha256 == file_hash(path) != before


def test_external_data_from_another_working_folder(tmp_path, monkeypatch):
    external(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert onnx_invert.invert("../model.onnx", "g.onnx").round_trip.passed


def test_external_data_in_a_function(tmp_path):
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "l" : 1]>
        g (float[N,2] x) => (float[N,2] y) { y = l.f(x) }
        <domain: "l", opset_import: ["" : 17]>
        f (a) => (b) { c = Constant<value = float[2] {1.0, 2.0}>() b = Add(a, c) }"""
    )
    tensor = model.functions[0].node[0].attribute[0].t
    (tmp_path / "c.bin").write_bytes(np.array([1, 2], np.float32).tobytes())
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="c.bin")
    plan = onnx_invert.explain(save(model, tmp_path / "f.onnx"))
    assert plan.guarantee is onnx_invert.Guarantee.BIJECTION


def test_initializers_that_are_listed_as_inputs_too():
    model = affine(opset=8, ir=3)
    model.graph.input.extend(
        [helper.make_tensor_value_info("w", 1, [4, 4]), helper.make_tensor_value_info("b", 1, [4])]
    )
    plan = onnx_invert.explain(model)
    assert [value.name for value in plan.problem.recovered] == ["x"]
    assert plan.problem.given == ()


@pytest.mark.parametrize("pairs", [[("", 17), ("", 17)], [("", 17), ("ai.onnx", 17)], [("ai.onnx", 17)]])
def test_repeated_opset_imports(pairs):
    model = affine()
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in pairs)
    source = from_proto(model)
    assert source.model.opset_imports == {"": 17}


def test_nodes_in_any_order():
    model = affine()
    model.graph.node.insert(0, model.graph.node[1])
    del model.graph.node[2]
    assert [node.name for node in from_proto(model).model.graph] == ["mm", "add"]


@pytest.mark.parametrize("kind", ["raw", "fields"])
@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_types_of_weights(dtype, kind):
    model = text("g (float[N,2] x) => (float[N,2] y) { c = Cast<to = 1>(w) y = Add(x, c) }")
    if kind == "fields":
        tensor = helper.make_tensor("w", dtype, [2], [1.0, -2.0])
    else:
        array = np.array([1, -2], dtype=helper.tensor_dtype_to_np_dtype(dtype))
        tensor = helper.make_tensor("w", dtype, [2], array.tobytes(), raw=True)
    model.graph.initializer.append(tensor)
    np.testing.assert_array_equal(weights(from_proto(model))["w"].astype(float), [1, -2])
    assert onnx_invert.invert(model).round_trip.passed


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(dtype, bad):
    model = affine(dtype=dtype)
    array = np.eye(4, dtype=dtype)
    array[0, 0] = array[2, 3] = bad
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "w"))
    with pytest.raises(ModelError, match=r"The model has weights that are NaN or infinite:\n  'w' \(4×4\): 2 of 16"):
        from_proto(model)


def test_a_weight_that_only_stands_by_may_be_nan():
    """x where it is finite, NaN elsewhere: torch writes it so for what it checks; elsewhere NaN is refused."""
    text = """
        <ir_version: 8, opset_import: ["" : 17]> g (float[N,3] x) => (float[N,3] y)
        <float none = {nan}, float[3] w = {1, 2, 4}> {
            bad = IsNaN(x)  fill = Identity(none)  sound = Where(bad, fill, x)  y = Mul(sound, w)
        }"""
    model = onnx.parser.parse_model(text.replace("nan", "0"))
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array(np.nan, np.float32), "none"))
    from_proto(model)
    model.graph.node[3].input[1] = "fill"
    with pytest.raises(ModelError, match=r"'none' \(scalar\): 1 of 1"):
        from_proto(model)


def test_every_bad_weight_is_listed():
    model = affine()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((4, 4), np.nan, np.float32), "w"))
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.array([0, 1, np.inf, 2], np.float32), "b"))
    with pytest.raises(ModelError) as caught:
        from_proto(model)
    assert "'w' (4×4): 16 of 16\n  'b' (4): 1 of 4" in str(caught.value)


def test_a_weight_larger_than_a_chunk(monkeypatch):
    monkeypatch.setattr(checks, "_CHUNK", 5)
    model = affine()
    array = np.ones((4, 4), np.float32)
    array[3] = np.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "w"))
    with pytest.raises(ModelError, match="4 of 16"):
        from_proto(model)


def test_a_cycle_names_its_nodes_alone():
    model = text(
        """g (float[N,2] x) => (float[N,2] y) {
        a = Neg(x)
        b = Add(a, d)
        c = Neg(b)
        d = Neg(c)
        y = Neg(d) }"""
    )
    for node, name in zip(model.graph.node, "pqrst", strict=True):
        node.name = name
    with pytest.raises(ModelError) as caught:
        from_proto(model)
    assert set("qrs") == set(str(caught.value).split("cycle: ")[1].split(" feed")[0].replace("'", "").split(", "))


def test_subgraphs_may_use_what_is_outside():
    body = """g (float[N,2] x, bool c) => (float[N,2] y) {
        y = If(c) <then_branch = t () => (float[N,2] p) { p = Exp(x) },
                   else_branch = e () => (float[N,2] q) { q = Neg(x) }> }"""
    from_proto(text(body))
    with pytest.raises(ModelError, match=r"nothing produces: 'z' \(used by node 'Neg'\)"):
        from_proto(text(body.replace("Neg(x)", "Neg(z)")))


def test_nothing_is_logged(caplog, capfd):
    model = affine()
    del model.graph.initializer[0]
    with pytest.raises(ModelError):
        from_proto(model)
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


def test_a_file_is_read_once_and_let_go_of(tmp_path):
    path = save(affine(), tmp_path / "f.onnx")
    source = read(path)
    path.unlink()
    np.testing.assert_array_equal(weights(source)["w"], WEIGHT)


def test_what_is_no_file():
    with pytest.raises(FileError, match="There is no file"):
        read(Path("gone.onnx"))


def test_a_classifier_that_makes_maps():
    node = helper.make_node("ZipMap", ["scores"], ["y"], name="zip", domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    x = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 2])
    maps = helper.make_sequence_type_proto(
        helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    )
    graph = helper.make_graph([node], "g", [x], [helper.make_value_info("y", maps)])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    with pytest.raises(ModelError, match=r"'zip' \(ZipMap\) makes a map of the numbers 'scores'.*'zipmap': False"):
        from_proto(helper.make_model(graph, opset_imports=opsets))
