"""g⁺: x from y and z.

Where z may be left out it is an initializer that is also an input: its value is what counts where no other is given.
Where z = 0 gives the plain inverse it is a row of zeros. Elsewhere it has no rows, and an If takes the plain inverse's
nodes instead.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from enum import Enum

import numpy as np
import onnx_ir as ir

from onnx_invert.build.inverse import assemble, port_of
from onnx_invert.build.lossless.either import either
from onnx_invert.build.lossless.giving import Giving
from onnx_invert.build.lossless.latents import Latent, latent_type, names_in
from onnx_invert.build.versions import OPSET, domains_of, opset_for
from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.lossless.completed import Lossless


class LeftOut(Enum):
    """What a z that is left out of the inverse stands for: 0, the nodes of the plain inverse; or it never is."""

    ZERO = "zero"
    PLAIN = "plain"
    NEVER = "never"


def build_inverse(
    plan: Lossless,
    plain: ir.Model | None,
    layout: Sequence[Latent],
    *,
    left_out: LeftOut,
    opset: int | None = None,
    metadata: Mapping[str, str] | None = None,
) -> ir.Model:
    """x from y and z. `plain` is the inverse from y alone, if there is one; what is taken of it is used up.

    Raises:
        ModelError: z is to be 0 where it is left out, and y does not tell how many samples there are.
        UsageError, ModelError: no `opset` at which nodes that run forwards mean what they did.
    """
    problem = plan.problem
    names = [v.name or "" for v in (*problem.known, *problem.recovered, *problem.given)]
    names += [latent.name for latent in layout]
    merged = plain if layout and left_out is LeftOut.PLAIN else None
    version = OPSET if plain is None else plain.opset_imports.get("", OPSET)
    reserved = names + ([] if merged is None else names_in(merged.graph))
    e = Emitter(problem.known[0].dtype or ir.DataType.FLOAT, reserved)
    ports = {value: port_of(value) for value in (*problem.known, *problem.given)}
    plain_ports = {} if plain is None else {value.name: value for value in plain.graph.inputs}
    if merged is not None:
        ports = {value: plain_ports.get(value.name, port) for value, port in ports.items()}
    inputs = [_port(plan, latent, left_out) for latent in layout]
    giving = Giving(e, plan, ports, layout, inputs, expand=left_out is LeftOut.ZERO and not plan.fixed)
    found = giving.recovered()
    forwards = giving.copied
    if forwards:
        version = opset_for(forwards, problem.opset, opset or (None if merged is None else version))
    domains = domains_of(forwards, problem.graph.opset_imports)
    if merged is not None:
        taken = [*_taken(plan, ports, plain_ports), *inputs]
        return either(e, plan, merged, found, taken, {"": version, **domains}, metadata)
    outputs = [_named(e, value, made, ports.values()) for value, made in zip(problem.recovered, found, strict=True)]
    model = assemble(e, [*_taken(plan, ports, plain_ports), *inputs], outputs, {"": version, **domains}, metadata)
    for port in inputs:
        if port.const_value is not None:
            model.graph.register_initializer(port)
    return model


def _taken(plan: Lossless, ports: Mapping[ir.Value, ir.Value], plain: Container[str | None]) -> list[ir.Value]:
    """The ports that are used, here or by the plain inverse; y too where all that x needs is in z."""
    used = [port for port in ports.values() if port.uses() or port.name in plain]
    if any(ports[value] in used for value in plan.problem.known):
        return used
    return [port for value, port in ports.items() if port in used or value in plan.problem.known]


def _named(e: Emitter, value: ir.Value, made: ir.Value, ports: Iterable[ir.Value]) -> ir.Value:
    if made in set(ports) or made.producer() is None:
        made = e.op("Identity", made)
    port = port_of(value)
    made.name, made.shape, made.type = port.name, port.shape, port.type
    return made


def _port(plan: Lossless, latent: Latent, left_out: LeftOut) -> ir.Value:
    """The input of a latent, and what it is where it may be left out."""
    kind = latent_type(plan)
    value = ir.Value(
        name=latent.name, shape=ir.Shape([f"{latent.name}_rows", latent.numbers]), type=ir.TensorType(kind)
    )
    if left_out is not LeftOut.NEVER:
        array = np.zeros((1 if left_out is LeftOut.ZERO else 0, latent.numbers), kind.numpy())
        value.const_value = ir.Tensor(array, name=latent.name)
    return value
