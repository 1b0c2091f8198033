"""The picture as an SVG file: on the left the network, on the right in the same places what the inverse does there."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from onnx_invert.graph.atomic import replacing
from onnx_invert.plan.choice import AnyPlan
from onnx_invert.report.drawing.layout import LINE, SIZE, Layout, Point, Rectangle, badge, lay_out
from onnx_invert.report.drawing.picture import Arrow, Picture, Place, Side, picture

FAMILY = "Verdana, 'DejaVu Sans', Geneva, sans-serif"
INK, GREY = "#1f2933", "#66727f"
BACK, ONWARD = "#c2570c", "#1d6fb8"

LOOKS = {
    "run": ("#e3f0fb", ONWARD),
    "undone": ("#fdeadb", BACK),
    "placed": ("#fdf6d8", "#97790a"),
    "solved": ("#efe6fa", "#7440b8"),
    "mixed": ("#eef0f2", "#66727f"),
    "again": ("#ffffff", "#66727f"),
    "known": ("#dff3e4", "#23803f"),
    "found": ("#d3f1ef", "#0d7a74"),
    "unused": ("#ffffff", "#9aa5b1"),
}
"""Fill and line of each look."""

TOLD = {
    "known": "known from the beginning",
    "found": "recovered",
    "run": "runs as in the network",
    "undone": "undone: operand from result",
    "placed": "elements put back",
    "solved": "solved together",
    "mixed": "several of these",
    "again": "the same again",
    "unused": "not used",
}
MARGIN, GAP, HEAD = 18.0, 44.0, 20.0


def draw(plan: AnyPlan, title: str) -> str:
    """The picture of a plan under a title, as the text of an SVG file. The same plan gives the same text.

    On the left the network; on the right, in the same places, what its inverse does there: the number of the step,
    whether a node is undone, put back, run or solved together with others, and which way tensors go. Networks of
    many nodes are drawn with several in a box.

    Raises:
        UsageError: the extra `graph` is not installed.
    """
    shown = picture(plan, title)
    return _svg(shown, lay_out(shown))


def write(plan: AnyPlan, title: str, path: Path) -> None:
    """Write the picture of a plan, whole or not at all; arguments as for `draw`.

    Raises:
        UsageError: the extra `graph` is not installed.
        FileError: the path cannot be written.
    """
    text = draw(plan, title)
    with replacing(path, "graph") as file:
        file.write(text.encode())


def _svg(shown: Picture, laid: Layout) -> str:
    looks = {place.look for place in shown.places}
    entries = [(look, told) for look, told in TOLD.items() if look in looks]
    span = max(2 * laid.width + GAP, 620.0)
    root = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg"})
    ET.SubElement(root, "title").text = f"{shown.title}: the network and its inverse"
    page = ET.SubElement(root, "rect", {"fill": "#ffffff"})
    y = MARGIN + 14
    _text(root, MARGIN, y, shown.title, size=15, weight="bold")
    for line in textwrap.wrap(shown.subtitle, int(span / 6.2)):
        y += 17
        _text(root, MARGIN, y, line, fill=GREY)
    y = _legend(root, entries, span, y + 16)
    tops = y + HEAD + 8
    columns = ((MARGIN, "The network", True), (MARGIN + laid.width + GAP, "Its inverse, step by step", False))
    for left, head, forward in columns:
        _text(root, left, y + HEAD - 4, head, size=12, weight="bold")
        group = ET.SubElement(
            root, "g", {"id": "network" if forward else "inverse", "transform": f"translate({_n(left)},{_n(tops)})"}
        )
        _column(group, shown, laid, forward=forward)
    y = tops + laid.height + 10
    for note in shown.notes:
        for line in textwrap.wrap(note, int(span / 6.2)):
            y += 15
            _text(root, MARGIN, y, line, fill=GREY)
    width, height = span + 2 * MARGIN, y + MARGIN
    root.attrib |= {"width": _n(width), "height": _n(height), "viewBox": f"0 0 {_n(width)} {_n(height)}"}
    root.attrib |= {"font-family": FAMILY, "font-size": _n(SIZE)}
    page.attrib |= {"width": _n(width), "height": _n(height)}
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _legend(root: ET.Element, entries: Sequence[tuple[str, str]], span: float, y: float) -> float:
    x = MARGIN
    for look, told in entries:
        width = 24 + 6.3 * len(told)
        if x > MARGIN and x + width > MARGIN + span:
            x, y = MARGIN, y + 18
        _rectangle(root, (x, y - 9, 14, 11), look)
        _text(root, x + 19, y, told, fill=GREY)
        x += width + 10
    return y + 10


def _column(group: ET.Element, shown: Picture, laid: Layout, *, forward: bool) -> None:
    for left, top, width, height in laid.frames.values():
        frame = {"fill": "#faf7fe", "stroke": LOOKS["solved"][1], "stroke-dasharray": "4 3", "rx": "8"}
        ET.SubElement(group, "rect", frame | _corners((left, top, width, height)))
    for arrow, curve in zip(shown.arrows, laid.curves, strict=True):
        _arrow(group, arrow, curve, forward=forward)
    for place, rectangle in zip(shown.places, laid.places, strict=True):
        _place(group, place, rectangle, place.forward if forward else place.inverse)
    if forward:
        return
    for number, (left, top, _, _) in laid.labels.items():
        for row, line in enumerate(shown.frames[number]):
            _text(group, left, top + 10 + 12 * row, line, fill=LOOKS["solved"][1])


def _place(group: ET.Element, place: Place, rectangle: Rectangle, side: Side) -> None:
    left, top, width, height = rectangle
    item = ET.SubElement(group, "g", {"class": place.look})
    if place.numbers:
        item.set("data-steps", " ".join(map(str, place.numbers)))
    if side.more:
        ET.SubElement(item, "title").text = side.more
    _rectangle(item, rectangle, place.look)
    strip = badge(place)
    _, line = LOOKS[place.look]
    if strip:
        side_of = f"h{_n(6 - strip)}a6,6 0 0 1 -6,-6v{_n(12 - height)}a6,6 0 0 1 6,-6z"
        path = f"M{_n(left + strip)},{_n(top)}v{_n(height)}{side_of}"
        ET.SubElement(item, "path", {"d": path, "fill": line})
        _text(
            item, left + strip / 2, top + height / 2 + 3.5, place.steps, fill="#ffffff", anchor="middle", weight="bold"
        )
    rows = [row for row in side.lines if row]
    start = top + (height - LINE * len(rows)) / 2 + LINE - 3.5
    for number, row in enumerate(rows):
        _text(
            item,
            left + strip + (width - strip) / 2,
            start + LINE * number,
            row,
            fill=INK if not number else GREY,
            anchor="middle",
        )


def _rectangle(parent: ET.Element, rectangle: Rectangle, look: str) -> None:
    fill, line = LOOKS[look]
    radius = min(rectangle[3] / 2, 15) if look in {"known", "found", "unused"} else 6
    style = {"fill": fill, "stroke": line, "rx": _n(radius)}
    if look in {"unused", "again"}:
        style["stroke-dasharray"] = "4 3"
    ET.SubElement(parent, "rect", _corners(rectangle) | style)


def _arrow(group: ET.Element, arrow: Arrow, curve: Sequence[Point], *, forward: bool) -> None:
    heads: list[tuple[Sequence[Point], str]] = []
    colour = "#9aa5b1"
    if forward:
        heads = [(curve, colour := GREY)]
    elif arrow.comes_back or arrow.goes:
        colour = BACK if arrow.comes_back else ONWARD
        heads = [(curve[::-1], BACK)] * arrow.comes_back + [(curve, ONWARD)] * arrow.goes
    first, *rest = [f"{_n(x)},{_n(y)}" for x, y in curve]
    style = {"d": f"M{first}C{' '.join(rest)}", "fill": "none", "stroke": colour}
    ET.SubElement(group, "path", style if heads else style | {"stroke-dasharray": "3 3"})
    for points, fill in heads:
        ET.SubElement(group, "polygon", {"points": _head(points), "fill": fill})


def _head(points: Sequence[Point]) -> str:
    """An arrow's head at the end of a curve."""
    (x, y), before = points[-1], points[-2]
    length = math.hypot(x - before[0], y - before[1]) or 1.0
    dx, dy = 7 * (x - before[0]) / length, 7 * (y - before[1]) / length
    corners = ((x, y), (x - dx - 0.42 * dy, y - dy + 0.42 * dx), (x - dx + 0.42 * dy, y - dy - 0.42 * dx))
    return " ".join(f"{_n(a)},{_n(b)}" for a, b in corners)


def _text(
    parent: ET.Element,
    x: float,
    y: float,
    text: str,
    *,
    fill: str = INK,
    size: float = SIZE,
    anchor: str = "start",
    weight: str = "normal",
) -> None:
    style = {"x": _n(x), "y": _n(y), "fill": fill}
    if size != SIZE:
        style["font-size"] = _n(size)
    if anchor != "start":
        style["text-anchor"] = anchor
    if weight != "normal":
        style["font-weight"] = weight
    ET.SubElement(parent, "text", style).text = text


def _corners(rectangle: Rectangle) -> dict[str, str]:
    return dict(zip(("x", "y", "width", "height"), map(_n, rectangle), strict=True))


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
