"""g⁺: x from y and z.

z is an initializer that is also an input: its value is what counts where no other is given. Where z = 0 gives the
plain inverse it is a row of zeros. Elsewhere it has no rows, and an If takes the plain inverse's nodes instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnx_invert.build.inverse import assemble, port_of
from onnx_invert.build.lossless.either import either
from onnx_invert.build.lossless.giving import Giving
from onnx_invert.build.lossless.latents import Latent, latent_type, names_in
from onnx_invert.build.versions import OPSET, domains_of, opset_for
from onnx_invert.graph.emit import Emitter
from onnx_invert.plan.lossless.completed import Lossless


def build_inverse(
    plan: Lossless,
    plain: ir.Model,
    layout: Sequence[Latent],
    *,
    zero_is_plain: bool,
    opset: int | None = None,
    metadata: Mapping[str, str] | None = None,
) -> ir.Model:
    """x from y and z. `plain` is the inverse from y alone, which is taken where z is left out; it is used up.

    With `zero_is_plain` it is not needed: z = 0 gives the same.

    Raises:
        UsageError, ModelError: no `opset` at which nodes that run forwards mean what they did.
    """
    problem = plan.problem
    names = [v.name or "" for v in (*problem.known, *problem.recovered, *problem.given)]
    names += [latent.name for latent in layout]
    merged = bool(layout) and not zero_is_plain
    version = plain.opset_imports.get("", OPSET)
    reserved = names + (names_in(plain.graph) if merged else [])
    e = Emitter(problem.known[0].dtype or ir.DataType.FLOAT, reserved)
    ports = {value: port_of(value) for value in (*problem.known, *problem.given)}
    plain_ports = {value.name: value for value in plain.graph.inputs}
    if merged:
        ports = {value: plain_ports.get(value.name, port) for value, port in ports.items()}
    inputs = [_port(plan, latent, zero_is_plain=zero_is_plain) for latent in layout]
    giving = Giving(e, plan, ports, layout, inputs, expand=zero_is_plain and not plan.fixed)
    found = giving.recovered()
    forwards = giving.copied
    if forwards:
        version = opset_for(forwards, problem.opset, opset or (version if merged else None))
    domains = domains_of(forwards, problem.graph.opset_imports)
    if merged:
        used = [port for port in ports.values() if port.uses() or port.name in plain_ports]
        return either(e, plan, plain, found, [*used, *inputs], {"": version, **domains}, metadata)
    outputs = [_named(e, value, made, ports.values()) for value, made in zip(problem.recovered, found, strict=True)]
    used = [port for port in ports.values() if port.uses() or port.name in plain_ports]
    model = assemble(e, [*used, *inputs], outputs, {"": version, **domains}, metadata)
    for port in inputs:
        model.graph.register_initializer(port)
    return model


def _named(e: Emitter, value: ir.Value, made: ir.Value, ports: Iterable[ir.Value]) -> ir.Value:
    if made in set(ports) or made.producer() is None:
        made = e.op("Identity", made)
    port = port_of(value)
    made.name, made.shape, made.type = port.name, port.shape, port.type
    return made


def _port(plan: Lossless, latent: Latent, *, zero_is_plain: bool) -> ir.Value:
    """The input of a latent, and what it is where it is left out."""
    kind = latent_type(plan)
    array = np.zeros((1 if zero_is_plain else 0, latent.numbers), kind.numpy())
    value = ir.Value(
        name=latent.name, shape=ir.Shape([f"{latent.name}_rows", latent.numbers]), type=ir.TensorType(kind)
    )
    value.const_value = ir.Tensor(array, name=latent.name)
    return value
