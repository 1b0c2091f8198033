"""Invert the shipped networks before the reader's eyes, and draw what comes back (`make demo`).

Everything is written to demo/: the digits, the inverses, a report and digits.png. Exits with the code of the first
command that fails.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from digits import downsample_8x8, load_digits
from numpy.typing import NDArray
from picture import Block, Row, draw, signed

TOP = Path(__file__).resolve().parent.parent
DEMO = Path("demo")
MODEL = "models/mnist_mlp.onnx"
TEST = ("--data", "demo/test_digits.npy")
SOME = (*TEST, "--samples", "200")
PRIOR = ("--prior", "demo/train_digits.npy")

# How the ten logits are undone: the file, what the picture calls it, the options.
INVERSES = (
    ("layer_by_layer", "layer by layer", ("--method", "closed-form", *TEST)),
    ("least_norm", "solved, no prior", ("--method", "newton", *SOME)),
    ("gaussian", "solved, Gaussian prior", (*PRIOR, "--prior-kind", "gaussian", *SOME)),
    ("conditional", "solved, conditional prior", (*PRIOR, *SOME)),
    ("bounded", "… and pixels within 0 and 1", (*PRIOR, "--bounds", "0", "1", *SOME)),
)

Array = NDArray[np.float32]


def main() -> None:
    """Run the demonstration from the top of the repository."""
    (TOP / DEMO).mkdir(exist_ok=True)
    digits = load_digits()
    # 0, 1, … 9, 0, 1, …, so that the first samples are of all classes.
    test = digits.x_test.reshape(10, -1, 784).swapaxes(0, 1).reshape(-1, 784)
    np.save(TOP / DEMO / "test_digits.npy", test)
    np.save(TOP / DEMO / "train_digits.npy", digits.x_train)

    say(f"1. Invert a trained network, 784 pixels → 10 logits, and verify it on {len(test)} test digits.\n")
    name, _, options = INVERSES[0]
    command(MODEL, "-o", f"demo/{name}.onnx", *options, "--report", "demo/report.json")
    say("   The logits come back, the digits do not: 774 dimensions are lost, and each layer sets its part to zero.\n")

    say("2. Solve f(x) = y inside the graph instead; say what is known of x: 4000 other digits, the pixels' range.\n")
    for name, _, options in INVERSES[1:]:
        command(MODEL, "-o", f"demo/{name}.onnx", *options, "--quiet")

    say("3. Measure two files, as anybody can, whoever wrote them.\n")
    command("check", MODEL, "demo/conditional.onnx", *SOME, "--quiet")

    say(f"4. What comes back from ten logits, over {len(test)} test digits.\n")
    rows = [Row("the true digits", test[:10], test)]
    y = infer(MODEL, test)
    for name, title, _ in INVERSES:
        back = infer(f"demo/{name}.onnx", y)
        error = float(np.mean(np.square(back.astype(np.float64) - test)))
        rows.append(Row(title, back[:10], back, error, residuals(back, y)))
        tell(rows[-1])

    say("\n5. What makes the network say 0, 1, … 9? Logits as far apart as the training digits', or their means.\n")
    wanted = [typical_one_hot(digits.x_train, digits.y_train), mean_logits(digits.x_train, digits.y_train)]
    on, off = float(wanted[0].max()), float(wanted[0].min())
    asked = [
        asked_row("least_norm", f"one logit {signed(on)}, nine {signed(off)};\nno prior", wanted[0]),
        asked_row("conditional", "the same logits;\nconditional prior", wanted[0]),
        asked_row("bounded", "each digit's mean logits;\nprior, within 0 and 1", wanted[1]),
    ]
    asked_row("bounded", "the first logits; prior, within 0 and 1", wanted[0])
    say("\n  The last line is not drawn: for some of these logits no image within 0 and 1 was found. A file that is")
    say("  written with --residual says so of each sample.")

    say("\n6. A network that loses nothing, 64 pixels → 64 numbers: here the input itself returns.\n")
    np.save(TOP / DEMO / "small_digits.npy", downsample_8x8(test))
    command("models/bijective.onnx", "-o", "demo/bijective_inverse.onnx", "--data", "demo/small_digits.npy", "--quiet")

    drawn = f"figures over {len(test)} digits, ten of them drawn; black is 0 and white 1 unless stated"
    blocks = (
        Block("From the ten logits of a test digit", drawn, rows),
        Block("From ten logits that were asked for", "to make the network say 0, 1, … 9", asked),
    )
    draw(blocks, TOP / DEMO / "digits.png")
    say("The picture: demo/digits.png   the inverses: demo/*.onnx   the report of the first: demo/report.json")


def say(text: str) -> None:
    """A line, in order with what the commands print."""
    print(text, flush=True)


def command(*arguments: str) -> None:
    """Print and run `onnx-invert …` from the top of the repository; stop if it fails."""
    say(f"$ onnx-invert {' '.join(arguments)}")
    done = subprocess.run([sys.executable, "-m", "onnx_invert", *arguments], cwd=TOP, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    say("")


def infer(model: str, array: Array) -> Array:
    """The only output of a network with one input."""
    session = onnxruntime.InferenceSession(TOP / model, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {session.get_inputs()[0].name: array})
    return np.asarray(result)


def residuals(x: Array, y: Array) -> NDArray[np.float64]:
    """‖f(x) − y‖ / ‖y‖ of each sample."""
    true = y.astype(np.float64)
    return np.linalg.norm(infer(MODEL, x) - true, axis=1) / np.linalg.norm(true, axis=1)


def typical_one_hot(x: Array, labels: NDArray[np.int64]) -> Array:
    """Ten one-hot vectors in the logits' own units: the mean logit of the true class, and of the nine others.

    Taken as logits, the numbers 1 and 0 are next to no answer: softmax makes 0.23 and 0.09 of them.
    """
    own = labels[:, None] == np.arange(10)
    y = infer(MODEL, x)
    return np.where(np.eye(10, dtype=bool), y[own].mean(), y[~own].mean()).astype(np.float32)


def mean_logits(x: Array, labels: NDArray[np.int64]) -> Array:
    """The mean logits of the digits of each class (10, 10)."""
    y = infer(MODEL, x)
    return np.stack([y[labels == digit].mean(axis=0) for digit in range(10)])


def asked_row(name: str, title: str, y: Array) -> Row:
    """What makes the network answer y, by the inverse `name`."""
    x = infer(f"demo/{name}.onnx", y)
    row = Row(title, x, x, None, residuals(x, y))
    tell(row)
    return row


def tell(row: Row) -> None:
    """The figures of one row."""
    error = "no true digit " if row.error is None else f"MSE per pixel {row.error:<8.3g}"
    assert row.residual is not None
    say(
        f"  {row.title.replace(chr(10), ' '):58}{error}  ‖f(g(y)) − y‖ / ‖y‖ median {np.median(row.residual):.1e}, "
        f"worst {row.residual.max():.1e}  pixels {row.span}"
    )


if __name__ == "__main__":
    main()
