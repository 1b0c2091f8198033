"""The Python interface: what is public, what it takes, what it returns and raises."""

import importlib.resources
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from small_models import BIAS, WEIGHT, affine, external, save, text

import onnx_invert
from onnx_invert import (
    FileError,
    Guarantee,
    ModelError,
    NotInvertibleError,
    OnnxInvertError,
    UsageError,
    VerificationError,
)

RELU = "g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }"


def test_the_public_names():
    assert sorted(onnx_invert.__all__) == [
        "Blocker", "Check", "Fibre", "FibreError", "FileError", "Guarantee", "Inversion", "Leaks", "ModelError",
        "NotInvertibleError", "OnnxInvertError", "Plan", "Points", "RuleSet", "UsageError", "VerificationError",
        "__version__", "check", "default_rules", "draw", "explain", "explain_lossless", "fibre", "invert", "jacobian",
        "leaks",
    ]  # fmt: skip
    assert set(dir(onnx_invert)) == set(onnx_invert.__all__)
    for name in onnx_invert.__all__:
        value = getattr(onnx_invert, name)
        assert name == "__version__" or callable(value)
        assert name == "__version__" or value.__doc__


def test_the_package_is_typed():
    assert importlib.resources.files("onnx_invert").joinpath("py.typed").is_file()


def test_a_name_that_is_not_public():
    with pytest.raises(AttributeError, match="module 'onnx_invert' has no attribute 'nonsense'"):
        onnx_invert.nonsense  # noqa: B018
    with pytest.raises(ImportError):
        from onnx_invert import nonsense  # noqa: F401


def fresh(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_the_package_imports_nothing():
    code = "import sys, onnx_invert; print([n for n in ('numpy', 'onnx', 'onnxruntime', 'rich') if n in sys.modules])"
    assert fresh(code) == "[]\n"


@pytest.mark.parametrize("first", ["Check", "check", "invert", "Plan"])
def test_names_do_not_depend_on_the_order_of_their_use(first):
    """A submodule of the same name would take the place of a function."""
    code = f"import onnx_invert as o; o.{first}; print([n for n in o.__all__ if hasattr(getattr(o, n), '__path__')])"
    assert fresh(code) == "[]\n"
    code = f"import onnx_invert as o, onnx_invert.cli.render; o.{first}; print(callable(o.check), callable(o.invert))"
    assert fresh(code) == "True True\n"


@pytest.mark.parametrize("kind", [str, Path, lambda name: type("P", (), {"__fspath__": lambda self: name})()])
def test_from_path_to_path(kind):
    result = onnx_invert.invert(kind("f.onnx"), kind("g.onnx"))
    assert result.path == Path("g.onnx")
    assert result.guarantee is Guarantee.BIJECTION
    assert result.round_trip.passed
    assert result.round_trip.x.worst < 1e-5
    assert result.model == onnx.load("g.onnx")
    assert result.report["guarantee"] == "bijection"
    assert [row.node for row in result.plan.rows] == ["add", "mm"]


def recover(model, y):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"y": y})[0]


def test_from_an_object_to_an_object(files):
    model = affine()
    before = model.SerializeToString()
    result = onnx_invert.invert(model)
    assert result.path is None
    assert model.SerializeToString() == before
    assert files() == {"f.onnx"}
    x = np.ones((2, 4), np.float32)
    np.testing.assert_allclose(recover(result.model, x @ WEIGHT + BIAS), x, rtol=1e-5)


def test_in_memory_leaves_no_temporary_files(folder, monkeypatch):
    (folder / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "tmp"))
    onnx_invert.invert("f.onnx")
    with pytest.raises(VerificationError):
        onnx_invert.invert("f.onnx", rtol=1e-12)
    assert list((folder / "tmp").iterdir()) == []


@pytest.mark.parametrize("output", [None, "g.onnx"])
def test_save(output):
    result = onnx_invert.invert("f.onnx", output)
    result.save("h.onnx")
    np.testing.assert_array_equal(
        recover(onnx.load("h.onnx"), np.ones((1, 4), np.float32)),
        recover(result.model, np.ones((1, 4), np.float32)),
    )
    with pytest.raises(FileError, match="is a directory"):
        result.save(".")


def test_an_object_and_a_path_give_the_same_inverse():
    model = affine()
    save(model, Path("f.onnx"))
    assert onnx_invert.invert(model).model.graph == onnx_invert.invert("f.onnx").model.graph


@pytest.mark.parametrize(
    "data", [np.ones((3, 4), np.float32), {"x": np.ones((3, 4))}, "x.npy", Path("x.npy"), Path("x.npz")]
)
def test_data(data):
    np.save("x.npy", np.ones((3, 4), np.float32))
    np.savez("x.npz", x=np.ones((3, 4), np.float32))
    trip = onnx_invert.invert("f.onnx", data=data).round_trip
    assert (trip.samples, trip.source) == (3, "given data")


def test_without_verification():
    result = onnx_invert.invert("f.onnx", verify=False)
    assert result.round_trip is None
    assert result.report["round_trip"] is None


def test_progress_is_told():
    told = []
    onnx_invert.invert("f.onnx", progress=lambda what, done, total: told.append((what, done, total)))
    assert ("mm", 0, 2) in told or ("mm", 1, 2) in told
    assert told[-1] == ("verification", 1, 1)


def test_rules_can_be_given():
    with pytest.raises(NotInvertibleError, match="no rule"):
        onnx_invert.invert("f.onnx", rules=onnx_invert.RuleSet())


def test_explain():
    plan = onnx_invert.explain(affine())
    assert plan.guarantee is Guarantee.BIJECTION
    assert len(plan.rows) == 2
    assert str(plan.images["y"]) == str(onnx_invert.explain("f.onnx").images["y"])


def test_check():
    onnx_invert.invert("f.onnx", "g.onnx")
    result = onnx_invert.check("f.onnx", Path("g.onnx"), samples=9)
    assert result.passed
    assert (result.claim, result.found) == (Guarantee.BIJECTION, Guarantee.BIJECTION)
    assert result.round_trip.samples == 9
    assert not onnx_invert.check("f.onnx", "g.onnx", rtol=1e-12).passed


def test_the_tree_of_errors():
    for error in (FileError, ModelError, UsageError, NotInvertibleError, VerificationError):
        assert issubclass(error, OnnxInvertError)
    codes = [error.exit_code for error in (UsageError, FileError, ModelError, VerificationError, NotInvertibleError)]
    assert codes == [2, 2, 2, 1, 3]


def test_errors_carry_what_they_say(files):
    with pytest.raises(NotInvertibleError) as caught:
        onnx_invert.invert(text(RELU), "g.onnx", method="closed-form")
    (blocker,) = caught.value.blockers
    assert (blocker.node, blocker.op) == ("Relu_0", "Relu")
    assert blocker.reason in str(caught.value)
    assert blocker.remedy in str(caught.value)
    with pytest.raises(VerificationError) as failed:
        onnx_invert.invert("f.onnx", "g.onnx", rtol=1e-12)
    assert failed.value.inversion.guarantee is Guarantee.APPROXIMATE
    assert failed.value.inversion.path is None
    assert not failed.value.inversion.round_trip.passed
    assert failed.value.inversion.report["planned_guarantee"] == "bijection"
    assert files() == {"f.onnx"}


def test_force():
    result = onnx_invert.invert("f.onnx", "g.onnx", rtol=1e-12, force=True)
    assert result.path == Path("g.onnx")
    for model in (result.model, onnx.load("g.onnx"), onnx_invert.invert("f.onnx", rtol=1e-12, force=True).model):
        assert {"approximate"} == {p.value for p in model.metadata_props if p.key == "onnx_invert.guarantee"}


ERRORS = {
    "no such file": (lambda: "gone.onnx", {}, FileError),
    "no model": (onnx.ModelProto, {}, ModelError),
    "no such input": (affine, {"recover": ["z"]}, UsageError),
    "no such output": (affine, {"known": ["z"]}, UsageError),
    "data that does not fit": (affine, {"data": np.ones((3, 5))}, UsageError),
    "an opset": (affine, {"opset": 3}, UsageError),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    model, options, error = ERRORS[name]
    with pytest.raises(error):
        onnx_invert.invert(model(), **options)


def test_external_data_of_an_object(folder):
    path = external(folder)
    model = onnx.load(path, load_external_data=False)
    with pytest.raises(ModelError, match=r"pass the model's path, or load its data first"):
        onnx_invert.invert(model)
    assert onnx_invert.invert(onnx.load(path)).round_trip.passed


def test_names_of_the_model_are_kept():
    result = onnx_invert.invert(text("g (float[N,3] image) => (float[N,3] logits) { logits = Exp(image) }"))
    graph = result.model.graph
    assert ([v.name for v in graph.input], [v.name for v in graph.output]) == (["logits"], ["image"])
