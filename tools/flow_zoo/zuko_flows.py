"""Flows of zuko (github.com/probabilists/zuko): the transform that a flow gives runs from x to noise."""

from __future__ import annotations

from functools import partial

import torch
import zuko
from torch import Tensor, nn
from zuko.flows import UnconditionalDistribution, UnconditionalTransform
from zuko.transforms import PermutationTransform, SoftclipTransform
from zuko.utils import GaussLegendre

from .flow import Flow, toy


# What ONNX cannot say as the library says it, said otherwise: Einsum broadcasts an ellipsis over operands of
# equal rank only, and torch's older exporter knows no autograd function of one's own.
def stacked_linear(x: Tensor, W: Tensor, b: Tensor | None = None) -> Tensor:
    """zuko.nn.linear, by matrix products where the weights are stacked."""
    if W.dim() == 2:
        return nn.functional.linear(x, W, b)
    y = (W @ x[..., None])[..., 0]
    return y if b is None else y + b


zuko.nn.linear = stacked_linear
zuko.transforms.gauss_legendre = lambda f, a, b, n, phi: GaussLegendre.quadrature(f, a, b, n)

SMALL = {"hidden_features": (16, 16)}


class Forward(nn.Module):
    """x, and context if there is one, to (z, log_abs_det)."""

    def __init__(self, flow: nn.Module) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the flow's transform gives."""
        return self.flow(context).transform.call_and_ladj(x)


class Values(nn.Module):
    """x to z alone: the log-det of these transforms comes from autograd, which no exporter follows."""

    def __init__(self, flow: nn.Module) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor) -> Tensor:
        """What the flow's transform gives."""
        return self.flow().transform(x)


class Chain(zuko.flows.Flow):
    """Transforms in a row."""

    def __init__(self, transforms: list[nn.Module]) -> None:
        zeros, ones = torch.zeros(1), torch.ones(1)
        super().__init__(
            transforms, UnconditionalDistribution(zuko.distributions.DiagNormal, zeros, ones, buffer=True)
        )


def flow(name: str, kind: str, model: nn.Module, x: Tensor, exact: bool = True, **more: object) -> Flow:
    """The transform of `model`, with its log-det if that is a formula."""

    def inverse(latents: tuple[Tensor, ...], others: tuple[Tensor, ...]) -> tuple[Tensor, Tensor | None]:
        back = model(*others).transform.inv
        return back.call_and_ladj(latents[0]) if exact else (back(latents[0]), None)

    module = Forward(model) if exact else Values(model)
    return Flow(name, "zuko", kind, module, x, inverse, gives_log_det=exact, **more)


def nsf(name: str) -> Flow:
    """Neural spline flow, fully autoregressive."""
    return flow(name, "autoregressive spline", zuko.flows.NSF(4, transforms=2, bins=5, **SMALL), toy(4))


def nsf_coupling(name: str) -> Flow:
    """Neural spline flow of couplings (two passes), conditional."""
    model = zuko.flows.NSF(5, context=2, transforms=2, bins=4, passes=2, randperm=True, **SMALL)
    others = {"context": toy(2, seed=1)}
    return flow(name, "coupling spline, conditional", model, toy(5), others=others, exporters=("dynamo",))


def ncsf(name: str) -> Flow:
    """Neural circular spline flow, on angles."""
    model = zuko.flows.NCSF(3, transforms=1, bins=5, **SMALL)
    return flow(name, "autoregressive spline, circular", model, toy(3, within=3.0), train=False)


def maf(name: str) -> Flow:
    """Masked autoregressive flow, conditional, randomly permuted."""
    model = zuko.flows.MAF(5, context=3, transforms=3, randperm=True, **SMALL)
    return flow(name, "autoregressive affine, conditional", model, toy(5), others={"context": toy(3, seed=1)})


def maf_residual(name: str) -> Flow:
    """Masked autoregressive flow with residual ELU conditioners, in three passes."""
    model = zuko.flows.MAF(6, transforms=2, passes=3, residual=True, activation=nn.ELU, **SMALL)
    return flow(name, "autoregressive affine", model, toy(6))


def nice(name: str) -> Flow:
    """Couplings with random masks, conditional."""
    model = zuko.flows.RealNVP(6, context=2, transforms=3, randmask=True, **SMALL)
    return flow(name, "coupling affine, conditional", model, toy(6), others={"context": toy(2, seed=1)})


def naf(name: str, size: int = 3) -> Flow:
    """Neural autoregressive flow: a monotonic network a feature."""
    network = {"hidden_features": (8, 8)}
    model = zuko.flows.NAF(size, transforms=1, signal=4, network=network, **SMALL)
    return flow(name, "autoregressive monotonic network", model, toy(size), exact=False)


def unaf(name: str) -> Flow:
    """Unconstrained neural autoregressive flow: the integral of a positive network a feature."""
    network = {"hidden_features": (8, 8)}
    model = zuko.flows.UNAF(3, transforms=1, signal=4, network=network, **SMALL)
    return flow(name, "autoregressive integral", model, toy(3))


def sospf(name: str, size: int = 3) -> Flow:
    """Sum-of-squares polynomial flow."""
    model = zuko.flows.SOSPF(size, transforms=2, degree=3, polynomials=2, **SMALL)
    return flow(name, "autoregressive polynomial", model, toy(size))


def bpf(name: str) -> Flow:
    """Bernstein polynomial flow."""
    model = zuko.flows.BPF(3, transforms=1, degree=8, **SMALL)
    return flow(name, "autoregressive polynomial", model, toy(3), exact=False)


def gf(name: str) -> Flow:
    """Gaussianization flow: mixtures of normal CDFs through the inverse CDF, rotations between."""
    return flow(
        name, "elementwise, rotations", zuko.flows.GF(4, transforms=2, components=4), 0.6 * toy(4), exact=False
    )


def softclip(name: str) -> Flow:
    """Couplings with a permutation between them and a soft clip behind."""
    transforms = [
        zuko.flows.GeneralCouplingTransform(5, **SMALL),
        UnconditionalTransform(PermutationTransform, torch.tensor([3, 0, 4, 1, 2]), buffer=True),
        zuko.flows.GeneralCouplingTransform(5, **SMALL),
        UnconditionalTransform(SoftclipTransform, bound=6.0),
    ]
    return flow(name, "coupling affine", Chain(transforms), toy(5))


FLOWS = {
    "zuko_nsf": nsf,
    "zuko_nsf_coupling_context": nsf_coupling,
    "zuko_ncsf": ncsf,
    "zuko_maf_context": maf,
    "zuko_maf_residual": maf_residual,
    "zuko_realnvp_context": nice,
    "zuko_naf": naf,
    "zuko_naf_d8": partial(naf, size=8),
    "zuko_unaf": unaf,
    "zuko_sospf": sospf,
    "zuko_sospf_d8": partial(sospf, size=8),
    "zuko_bpf": bpf,
    "zuko_gf": gf,
    "zuko_softclip": softclip,
}
