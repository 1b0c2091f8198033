"""`onnx-invert run`: one inference, arrays in and out, and the output as a sheet of images."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from onnx_invert.arrays import load
from onnx_invert.errors import FileError, UsageError
from onnx_invert.graph.atomic import check_target, replacing
from onnx_invert.report.images import as_images, shades
from onnx_invert.runtime import Session
from onnx_invert.samples import match

_MOST_IMAGES = 400


def run(model: Path, arrays: Path, output: Path, image: Path | None) -> str:
    """Run `model` once and write its outputs; returns a line that says what was written.

    Raises:
        FileError, ModelError, UsageError: nothing is written then.
    """
    if not model.is_file():
        raise FileError(f"There is no file {str(model)!r}.")
    check_target(output, model, [arrays])
    if output.suffix not in {".npy", ".npz"}:
        raise FileError(f"The output {str(output)!r} should end in .npy or .npz: that is what is written.")
    if image is not None:
        check_target(image, model, [arrays, output], what="image")
        if image.suffix.lower() != ".png":
            raise FileError(f"The image {str(image)!r} should end in .png: that is what is written.")
    session = Session(model, model.name)
    feeds = session.check(match(load(arrays), sorted(session.names), arrays.name))
    results = session.run(feeds)
    for name, array in results.items():
        if not isinstance(array, np.ndarray) or array.dtype.hasobject:
            raise UsageError(f"The output {name!r} of {model.name} is no array of numbers: it cannot be written.")
    if len(results) > 1 and output.suffix != ".npz":
        raise UsageError(
            f"{model.name} has {len(results)} outputs ({', '.join(results)}): write them to an .npz file."
        )
    first = next(iter(results.values()))
    picture = sheet(first) if image is not None else None
    with replacing(output) as file:
        if output.suffix == ".npz":
            write_npz(file, results)
        else:
            np.save(file, first, allow_pickle=False)
        if image is not None and picture is not None:
            with replacing(image, "image") as drawing:
                picture.save(drawing, format="PNG")
    said = [f"{output}: {name} {array.dtype}{list(array.shape)}" for name, array in results.items()]
    if image is not None:
        said.append(f"{image}: {min(len(first), _MOST_IMAGES)} images")
    return "\n".join(said)


def write_npz(file: BinaryIO, arrays: Mapping[str, NDArray[Any]]) -> None:
    """What `numpy.savez` writes, for any names (it takes them as keywords) and without the time of day."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def sheet(array: NDArray[Any]) -> Any:
    """A batch of images as one picture, ten in a row.

    (N, H, W), (N, H, W, 1 or 3), (N, 1 or 3, H, W), or (N, n) with n a square. An image within [0, 1] is
    drawn as it is; any other is scaled from its own least value (black) to its greatest (white).

    Raises:
        UsageError: the shape is none of these, or Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise UsageError("--image needs Pillow: pip install 'onnx-invert[image]'") from error
    images = _as_images(np.asarray(array, dtype=np.float64))[:_MOST_IMAGES]
    count, height, width, channels = images.shape
    columns = min(10, count)
    rows = -(-count // columns)
    canvas = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, channels), 128, dtype=np.uint8)
    for index, picture in enumerate(images):
        top, left = index // columns * (height + 1), index % columns * (width + 1)
        canvas[top : top + height, left : left + width] = np.round(shades(picture) * 255).astype(np.uint8)
    zoom = max(1, 56 // max(height, width))
    drawn = Image.fromarray(canvas if channels == 3 else canvas[..., 0])
    return drawn.resize((drawn.width * zoom, drawn.height * zoom), Image.Resampling.NEAREST)


def _as_images(array: NDArray[np.float64]) -> NDArray[np.float64]:
    if array.size == 0 or not np.isfinite(array).all():
        raise UsageError(f"--image: the output (shape {array.shape}) is empty or not finite; it is no image.")
    images = as_images(array)
    if images is None:
        raise UsageError(f"--image: an output of shape {array.shape} is no batch of images.")
    return images
