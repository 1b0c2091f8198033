"""Derivatives of convolutions and their transposes, and where windows lie on an image.

Seeds are merged into the batch: a convolution of tangents is the convolution itself without its bias, and its adjoint
the transposed one, with the same weight. ConvTranspose is emitted without pads, which some runtimes get wrong; what
lies in the padding is cut off afterwards.
Source: V. Dumoulin & F. Visin, A guide to convolution arithmetic for deep learning, 2016.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from onnx_invert.graph.emit import Emitter
from onnx_invert.rules.derivatives.picks import padded
from onnx_invert.rules.differential import At, Differential, Point, ones_like, second, static, targets
from onnx_invert.rules.facts import NoInverse
from onnx_invert.rules.node import NodeView, Shape
from onnx_invert.rules.registry import RuleSet

rules = RuleSet()

Image = Callable[[Point, Emitter, ir.Value], ir.Value]
"""Emits a map of images (B, C, …) at a point."""


@dataclass(frozen=True)
class Windows:
    """Windows on an image, one number of each per spatial axis: window o holds the places
    o · stride + k · dilation − before of `sizes` places, k < kernel, o < counts. Places outside are padding.

    `after` is the padding that the node asks for behind the image; only averages count it.
    """

    sizes: tuple[int, ...]
    counts: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @staticmethod
    def of(node: NodeView, x: Shape, y: Shape, kernel: Sequence[int]) -> Windows | NoInverse:
        """As the attributes say, for windows on x that make y; both without batch and channels."""
        sizes, counts = fixed_sizes(x), fixed_sizes(y)
        if isinstance(sizes, NoInverse):
            return sizes
        if isinstance(counts, NoInverse):
            return counts
        rank = len(sizes)
        strides, dilations = integers(node, "strides", [1] * rank), integers(node, "dilations", [1] * rank)
        pads = integers(node, "pads", [0] * (2 * rank))
        before, after = list(pads[:rank]), list(pads[rank:])
        auto = automatic(node)
        if auto == "VALID":
            before = after = [0] * rank
        elif auto:
            for axis in range(rank):
                reach = (counts[axis] - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1
                total = max(0, reach - sizes[axis])
                before[axis] = (total + (auto == "SAME_LOWER")) // 2
                after[axis] = total - before[axis]
        return Windows(sizes, counts, tuple(kernel), strides, dilations, tuple(before), tuple(after))

    @property
    def reach(self) -> tuple[int, ...]:
        """How many places all windows together span, padding included."""
        return tuple(
            (count - 1) * stride + (kernel - 1) * dilation + 1
            for count, stride, kernel, dilation in zip(
                self.counts, self.strides, self.kernel, self.dilations, strict=True
            )
        )

    def slide(self, e: Emitter, image: ir.Value, weight: ir.Value, group: int) -> ir.Value:
        """(B, C, *sizes) → (B, M, *counts): the convolution."""
        ends = [reach - before for reach, before in zip(self.reach, self.before, strict=True)]
        after = [max(0, end - size) for end, size in zip(ends, self.sizes, strict=True)]
        # What lies behind the last window is in no sum; if another would fit there, it is cut off.
        fits = [size - end >= stride for end, size, stride in zip(ends, self.sizes, self.strides, strict=True)]
        ends = [end if fit else size for end, size, fit in zip(ends, self.sizes, fits, strict=True)]
        image = _cut(e, image, [0] * len(ends), ends, self.sizes)
        return e.op("Conv", image, weight, pads=[*self.before, *after], **self._attributes(group))

    def spread(self, e: Emitter, image: ir.Value, weight: ir.Value, group: int) -> ir.Value:
        """(B, M, *counts) → (B, C, *sizes): the adjoint of `slide` with the same weight."""
        rank = len(self.sizes)
        image = e.op("ConvTranspose", image, weight, pads=[0] * (2 * rank), **self._attributes(group))
        ends = [before + size for before, size in zip(self.before, self.sizes, strict=True)]
        image = _cut(e, image, self.before, ends, self.reach)
        behind = {axis + 2: (0, max(0, ends[axis] - self.reach[axis])) for axis in range(rank)}
        return padded(e, image, rank + 2, behind)

    def _attributes(self, group: int) -> dict[str, int | Sequence[int]]:
        return {
            "kernel_shape": self.kernel,
            "strides": self.strides,
            "dilations": self.dilations,
            "group": group,
        }


def _cut(e: Emitter, image: ir.Value, starts: Sequence[int], ends: Sequence[int], sizes: Sequence[int]) -> ir.Value:
    """From start to end of every spatial axis, as far as the image goes."""
    axes = [i for i, size in enumerate(sizes) if starts[i] > 0 or ends[i] < size]
    if not axes:
        return image
    begin, end = [starts[i] for i in axes], [min(ends[i], sizes[i]) for i in axes]
    return e.op("Slice", image, e.ints(begin), e.ints(end), e.ints([i + 2 for i in axes]))


def fixed_sizes(shape: Shape) -> tuple[int, ...] | NoInverse:
    """Sizes of an image, or the refusal where one is known only at run time."""
    unknown = [dim for dim in shape if isinstance(dim, str)]
    if unknown:
        named = " and ".join(map(repr, unknown))
        return NoInverse(f"its image sizes {named} are known only at run time", "give them fixed sizes with --shape")
    return tuple(int(dim) for dim in shape)


def integers(node: NodeView, name: str, default: Sequence[int]) -> tuple[int, ...]:
    """A list of integers that is an attribute."""
    attribute = node.node.attributes.get(name)
    return tuple(default if attribute is None else attribute.as_ints())


def automatic(node: NodeView) -> str:
    """How the node pads by itself: VALID, SAME_UPPER, SAME_LOWER; empty if its attributes say how much."""
    attribute = node.node.attributes.get("auto_pad")
    kind = "NOTSET" if attribute is None else attribute.as_string()
    return "" if kind == "NOTSET" else kind


@rules.derivative("Conv")
def conv(node: NodeView) -> At | NoInverse:
    """∂(x ∗ w + b) = ∂x ∗ w + ∂b; its adjoint in x is the transposed convolution with w.

    Shapes:    x (N, C, …), w (M, C / group, …), b (M) → y (N, M, …)
    Refuses:   w unknown; image sizes that are known only at run time, but for windows one place apart
    Source:    ONNX Conv-1, -11, -22
    """
    if node.unknown:
        return _bias_alone(node)
    shapes = _shapes(node)
    if isinstance(shapes, NoInverse):
        return shapes
    x, y, weight = shapes
    group = node.integer("group", 1)
    windows = Windows.of(node, x[2:], y[2:], weight[2:])
    if isinstance(windows, NoInverse):
        return _of_any_size(node, weight[2:], group) or windows
    return _merged(
        (x[0], weight[1] * group, *windows.sizes),
        (y[0], weight[0], *windows.counts),
        lambda p, e, t: windows.slide(e, t, p.input(1), group),
        lambda p, e, c: windows.spread(e, c, second(e, p.input(1)), group),
    )


def _of_any_size(node: NodeView, kernel: Sequence[int], group: int) -> At | None:
    """Windows one place apart, on images whose sizes are told when it runs: the adjoint begins where they do."""
    rank = len(kernel)
    if automatic(node) not in {"", "VALID"} or any(stride != 1 for stride in integers(node, "strides", [1] * rank)):
        return None
    pads = [0] * (2 * rank) if automatic(node) else list(integers(node, "pads", [0] * (2 * rank)))
    dilations = integers(node, "dilations", [1] * rank)
    reach = [(size - 1) * dilation for size, dilation in zip(kernel, dilations, strict=True)]
    if any(pad > most for pad, most in zip(pads, reach * 2, strict=True)):
        return None  # the adjoint is no part of the transposed convolution then
    attributes: dict[str, int | Sequence[int]] = {
        "kernel_shape": tuple(kernel),
        "dilations": dilations,
        "group": group,
    }

    def merged(e: Emitter, t: ir.Value, like: ir.Value) -> ir.Value:
        with e.scope(e.scope_name, ir.DataType.INT64):
            rest = e.op("Slice", e.op("Shape", like), e.ints([1]), e.ints([rank + 2]), e.ints([0]))
            return _reshaped(e, t, e.op("Concat", e.ints([-1]), rest, axis=0))

    def apart(p: Point, e: Emitter, t: ir.Value, like: ir.Value) -> ir.Value:
        with e.scope(e.scope_name, ir.DataType.INT64):
            return _reshaped(e, t, e.op("Concat", e.ints([p.seeds]), e.op("Shape", like), axis=0))

    def at(p: Point) -> Differential:
        x, y = p.input(0), p.outputs[0]

        def push(e: Emitter, t: ir.Value) -> ir.Value:
            return apart(p, e, e.op("Conv", merged(e, t, x), p.input(1), pads=pads, **attributes), y)

        def pull(e: Emitter, c: ir.Value) -> ir.Value:
            weight = second(e, p.input(1))
            whole = e.op("ConvTranspose", merged(e, c, y), weight, pads=[0] * (2 * rank), **attributes)
            axes = [axis for axis in range(rank) if pads[axis] or pads[axis + rank]]
            if axes:
                ends = [-pads[axis + rank] or 1 << 62 for axis in axes]
                starts = [pads[axis] for axis in axes]
                whole = e.op("Slice", whole, e.ints(starts), e.ints(ends), e.ints([axis + 2 for axis in axes]))
            return apart(p, e, whole, x)

        return Differential(push, pull)

    return at


def _reshaped(e: Emitter, t: ir.Value, shape: ir.Value) -> ir.Value:
    with e.scope(e.scope_name, t.dtype or e.dtype):
        return e.op("Reshape", t, shape)


@rules.derivative("ConvTranspose")
def conv_transpose(node: NodeView) -> At | NoInverse:
    """∂y is the transposed convolution of ∂x with w, plus ∂b; its adjoint in x is the convolution with w.

    Shapes:    x (N, C, …), w (C, M / group, …), b (M) → y (N, M, …)
    Refuses:   w unknown; image sizes that are known only at run time
    Source:    ONNX ConvTranspose-1, -11, -22
    """
    if node.unknown:
        return _bias_alone(node)
    shapes = _shapes(node)
    if isinstance(shapes, NoInverse):
        return shapes
    x, y, weight = shapes
    windows = Windows.of(node, y[2:], x[2:], weight[2:])
    if isinstance(windows, NoInverse):
        return windows
    windows = _transposed(node, windows)
    if isinstance(windows, NoInverse):
        return windows
    group, slid = node.integer("group", 1), windows
    return _merged(
        (x[0], weight[0], *windows.counts),
        (y[0], weight[1] * group, *windows.sizes),
        lambda p, e, t: slid.spread(e, t, p.input(1), group),
        lambda p, e, c: slid.slide(e, c, second(e, p.input(1)), group),
    )


def _transposed(node: NodeView, windows: Windows) -> Windows | NoInverse:
    """With the padding of ConvTranspose, which follows from the output's size where that is given."""
    auto, given = automatic(node), integers(node, "output_shape", ())
    if auto == "VALID" or not (auto or given):
        return windows
    rank = len(windows.sizes)
    extra = integers(node, "output_padding", [0] * rank)
    if auto and not given and any(extra):
        return NoInverse("it has output_padding beside auto_pad, which runtimes read in two ways", "export with pads")
    totals = [
        max(0, reach + more - size) for reach, more, size in zip(windows.reach, extra, windows.sizes, strict=True)
    ]
    before = tuple((total + (auto != "SAME_UPPER")) // 2 for total in totals)
    return replace(windows, before=before)


def _shapes(node: NodeView) -> tuple[Shape, Shape, tuple[int, ...]] | NoInverse:
    """Those of the image and of y, and the sizes of the weight."""
    weight = node.operand(1)
    shapes = static(node, node.x, node.y, *([] if weight is None else [weight]))
    if isinstance(shapes, NoInverse):
        return shapes
    x, y, w = shapes
    if any(isinstance(dim, str) for dim in w):
        return NoInverse("the sizes of its weight are known only at run time", "give them fixed sizes with --shape")
    return x, y, tuple(int(dim) for dim in w)


def _merged(x: Shape, y: Shape, push: Image, pull: Image) -> At | NoInverse:
    """Maps of images, for tangents (S, N, …): seeds become part of the batch."""

    def at(p: Point) -> Differential:
        return Differential(
            lambda e, t: _restored(p, e, push(p, e, _images(e, t, x)), y),
            lambda e, c: _restored(p, e, pull(p, e, _images(e, c, y)), x),
        )

    return at


def _images(e: Emitter, t: ir.Value, shape: Shape) -> ir.Value:
    return e.op("Reshape", t, e.ints([-1, *(int(dim) for dim in shape[1:])]))


def _restored(p: Point, e: Emitter, images: ir.Value, shape: Shape) -> ir.Value:
    target = targets(p.seeds, shape)
    assert not isinstance(target, NoInverse)
    return e.op("Reshape", images, e.ints(target))


def _bias_alone(node: NodeView) -> At | NoInverse:
    """∂y is ∂b, repeated over samples and places; a weight is refused."""
    if node.unknown != 2:
        return NoInverse("its weight depends on what is unknown")
    shapes = static(node, node.y)
    if isinstance(shapes, NoInverse):
        return shapes
    rank = len(shapes[0])

    def at(p: Point) -> Differential:
        ones = ones_like(p.e, p.outputs[0])
        lifted, others = p.e.ints([p.seeds, 1, -1, *[1] * (rank - 2)]), p.e.ints([1, *range(3, rank + 1)])
        return Differential(
            lambda e, t: e.op("Mul", e.op("Reshape", t, lifted), ones),
            lambda e, c: e.op("ReduceSum", c, others, keepdims=0),
        )

    return at
