"""What lossless mode costs is stated before anything is written, and in the report after."""

import numpy as np
import pytest

import onnx_invert
from onnx_invert.cli import main


def test_weights_and_latents_are_counted(models):
    pair = onnx_invert.explain_lossless(models / "mnist_mlp.onnx", samples=8)
    # T and C of the first layer's reflector; the null spaces of the others; indices and shapes.
    products = 128 * 128 + 128 * 656 + 128 * 64 + 64 * 54
    assert 0 <= pair.overhead.weights - 4 * products < 300
    assert pair.overhead.latents == 4 * 774
    assert pair.overhead.rows == 8
    assert 0.1 < pair.overhead.time < 100
    assert pair.measured.passed


def test_a_network_that_has_no_inverse_has_one(tmp_path):
    import onnx.parser

    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,4] x) => (float[N,4] y) { f = Floor(x) y = Neg(f) }""")
    with pytest.raises(onnx_invert.NotInvertibleError):
        onnx_invert.explain(model)
    pair = onnx_invert.explain_lossless(model, data=np.random.default_rng(0).standard_normal((20, 4), np.float32))
    assert (pair.plan.size, pair.plan.kept) == (4, 0)
    assert pair.measured.passed


def test_the_report_of_an_inversion_has_them(models):
    report = onnx_invert.invert(models / "bijective.onnx", lossless=True, samples=8).report["lossless"]
    assert report["latent"] == report["latent_bytes"] == 0
    assert report["time_ratio"] > 0
    assert (
        onnx_invert.invert(models / "bijective.onnx", lossless=True, samples=8, verify=False).report["lossless"][
            "time_ratio"
        ]
        is None
    )


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [([], 0, "z has 774 numbers"), ([], 0, "times as long as f"), (["--method", "newton"], 2, "--method"),
     (["--chart", "c.png"], 2, "--chart")],
)  # fmt: skip
def test_the_command(options, code, said, models, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["explain", str(models / "mnist_mlp.onnx"), "--lossless", "--samples", "8", *options])
    assert stop.value.code == code
    assert said in "".join(capsys.readouterr())
