"""Invert the shipped networks before the reader's eyes, and draw what comes back (`make demo`).

Everything is written to demo/: the data, the inverse, the report and digits.png. Exits with the code of the first
command that fails.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from digits import downsample_8x8, load_digits
from numpy.typing import NDArray
from onnx import numpy_helper
from PIL import Image, ImageDraw, ImageFont

TOP = Path(__file__).resolve().parent.parent
DEMO = Path("demo")
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Row:
    """Ten images of side `side`, what they are, and the pixel range over everything they were taken from."""

    title: str
    lines: tuple[str, ...]
    images: Array
    side: int
    scaled: bool


def main() -> None:
    """Run the demonstration from the top of the repository."""
    (TOP / DEMO).mkdir(exist_ok=True)
    digits = load_digits()
    test = digits.x_test
    np.save(TOP / DEMO / "test_digits.npy", test)
    shown = [int(np.flatnonzero(digits.y_test == digit)[0]) for digit in range(10)]

    say(f"1. Invert a trained network, 784 pixels → 10 logits, and verify it on {len(test)} test digits.\n")
    model, inverse = "models/mnist_mlp.onnx", "demo/inverse.onnx"
    data = ("--data", "demo/test_digits.npy")
    command(model, "-o", inverse, *data, "--report", "demo/report.json")

    say("2. Measure the two files once more, as anybody can.\n")
    command("check", model, inverse, *data)

    say("3. What the inverse returns.\n")
    y = infer(model, test)
    back = infer(inverse, y)
    same = int(np.sum(np.argmax(infer(model, back), axis=1) == np.argmax(y, axis=1)))
    hot = np.eye(10, dtype=np.float32)
    from_hot = infer(inverse, hot)
    rows = [
        Row("x: test digits", (f"pixels {span(test)}",), test[shown], 28, scaled=False),
        Row("g(f(x)) from 10 logits", (f"pixels {span(back)}", "each image scaled"), back[shown], 28, scaled=True),
        Row("g(one-hot), 0 to 9", (f"pixels {span(from_hot)}", "each image scaled"), from_hot, 28, scaled=True),
    ]
    figures("g(f(x)), x the test digits", back, f"‖g(f(x)) − x‖ / ‖x‖ median {apart(back, test):.3g}", model, y)
    say(f"  the network gives the same class to x and to g(f(x)) for {same} of {len(test)} digits")
    figures("g(one-hot), ten of them", from_hot, "no true digit", model, hot)
    say("  Every image gives back its ten logits; none looks like a digit. 784 numbers became 10, so 774 are lost,")
    say("  and a layer-by-layer inverse sets what each layer lost to zero. On the way back the values grow:\n")
    way_back(model, test, y)

    say("4. A network that loses nothing, 64 pixels → 64 numbers: its inverse returns the input itself.\n")
    small = downsample_8x8(test)
    np.save(TOP / DEMO / "small_digits.npy", small)
    model, inverse = "models/bijective.onnx", "demo/bijective_inverse.onnx"
    command(model, "-o", inverse, "--data", "demo/small_digits.npy", "--quiet")
    y = infer(model, small)
    back = infer(inverse, y)
    rows += [
        Row("x: 8 by 8 test digits", (f"pixels {span(small)}",), small[shown], 8, scaled=False),
        Row(
            "g(f(x)) from 64 numbers",
            (f"pixels {span(back)}", f"relative error {apart(back, small):.1g}"),
            back[shown],
            8,
            scaled=False,
        ),
    ]
    figures("g(f(x)), x the 8×8 digits", back, f"‖g(f(x)) − x‖ / ‖x‖ median {apart(back, small):.3g}", model, y)

    draw(rows).save(TOP / DEMO / "digits.png", optimize=True)
    say("\nThe pictures: demo/digits.png   the inverse: demo/inverse.onnx   the report: demo/report.json")


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


def apart(got: Array, true: Array) -> float:
    """The median over the samples of ‖got − true‖ / ‖true‖."""
    difference = np.linalg.norm(got.astype(np.float64) - true, axis=1)
    return float(np.median(difference / np.linalg.norm(true.astype(np.float64), axis=1)))


def span(images: Array) -> str:
    """From the least to the greatest pixel."""
    low, high = float(images.min()), float(images.max())
    return f"{low:.3g} to {high:.3g}"


def figures(what: str, images: Array, error: str, model: str, y: Array) -> None:
    """The figures of one row: pixels, error to the truth, residual."""
    residual = apart(infer(model, images), y)
    say(f"  {what:28} pixels {span(images)};  {error};  ‖f(g(y)) − y‖ / ‖y‖ median {residual:.2g}")


def way_back(model: str, x: Array, y: Array) -> None:
    """Undo mnist_mlp step by step in numpy: how large the values are, beside those of the forward run."""
    proto = onnx.load(TOP / model)
    stored = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in proto.graph.initializer}
    layers = [(stored[f"fc{i}.weight"], stored[f"fc{i}.bias"]) for i in (1, 2, 3)]
    slope = next(node.attribute[0].f for node in proto.graph.node if node.op_type == "LeakyRelu")
    forward = [x.astype(np.float64)]
    for weight, bias in layers[:-1]:
        before = forward[-1] @ weight + bias
        forward += [before, np.where(before < 0, slope * before, before)]
    say("  undone             root mean square, forwards → recovered     range of the recovered")
    value = y.astype(np.float64)
    for number, (weight, bias) in reversed(list(enumerate(layers, 1))):
        value = (value - bias) @ np.linalg.pinv(weight)
        step(f"fc{number} (minimum norm)", forward.pop(), value)
        if number > 1:
            value = np.where(value < 0, value / slope, value)
            step(f"act{number - 1} (1 / {slope:g})", forward.pop(), value)
    say("")


def step(what: str, true: NDArray[np.float64], value: NDArray[np.float64]) -> None:
    """One line of `way_back`."""
    sizes = [float(np.sqrt(np.mean(np.square(array)))) for array in (true, value)]
    say(f"  {what:18} {sizes[0]:10.2f} → {sizes[1]:<10.2f} {value.min():30.1f} to {value.max():.1f}")


def draw(rows: list[Row]) -> Image.Image:
    """The rows one below the other, titles on the left."""
    margin, cell, gap, left = 12, 56, 6, 216
    height = margin + len(rows) * (cell + gap) + margin * (len(rows) > 3)
    canvas = Image.new("L", (left + 10 * (cell + gap) + margin, height + margin - gap), 255)
    pen = ImageDraw.Draw(canvas)
    title, small = ImageFont.load_default(16), ImageFont.load_default(13)
    top = margin
    for index, row in enumerate(rows):
        if index == 3:
            pen.line((margin, top + 2, canvas.width - margin, top + 2), fill=190)
            top += margin
        pen.text((margin, top + 2), row.title, fill=0, font=title)
        for number, line in enumerate(row.lines):
            pen.text((margin, top + 22 + 16 * number), line, fill=90, font=small)
        for column, image in enumerate(row.images):
            picture = Image.fromarray(shades(image.reshape(row.side, row.side), scaled=row.scaled))
            canvas.paste(picture.resize((cell, cell), Image.Resampling.NEAREST), (left + column * (cell + gap), top))
        top += cell + gap
    return canvas


def shades(image: Array, *, scaled: bool) -> NDArray[np.uint8]:
    """[0, 1] from black to white; scaled, from the image's own least to its greatest pixel."""
    low, high = (float(image.min()), float(image.max())) if scaled else (0.0, 1.0)
    return np.round(np.clip((image - low) / (high - low), 0, 1) * 255).astype(np.uint8)


if __name__ == "__main__":
    main()
