"""Flows of FrEIA (github.com/vislearn/FrEIA): x to noise is its forward direction."""

from __future__ import annotations

import FrEIA.framework as ff
import FrEIA.modules as fm
import torch
from torch import Tensor, nn

from .flow import Flow, images, toy


class Forward(nn.Module):
    """x to (z, log_abs_det); a log-det that is the same for all samples is spread over them."""

    def __init__(self, inn: nn.Module) -> None:
        super().__init__()
        self.inn = inn

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the network gives."""
        z, log_det = self.inn(x)
        return z, log_det + x.new_zeros(x.shape[0])


class Conditional(Forward):
    """x and context to (z, log_abs_det)."""

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """What the network gives."""
        return self.inn(x, c=[context])


class Values(nn.Module):
    """x to z alone, through the layers in a row."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """What the layers give."""
        for layer in self.layers:
            x = layer([x], jac=False)[0][0]
        return x

    def inverse(self, z: Tensor) -> Tensor:
        """What the layers give in reverse."""
        for layer in reversed(self.layers):
            z = layer([z], rev=True, jac=False)[0][0]
        return z


class Several(Forward):
    """x to several latents and log_abs_det."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """What the network gives."""
        latents, log_det = self.inn(x)
        return (*latents, log_det)


def flow(name: str, kind: str, inn: nn.Module, x: Tensor, **more: object) -> Flow:
    """The network as it is, with its context if there is one."""

    def inverse(latents: tuple[Tensor, ...], others: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        given = latents[0] if len(latents) == 1 else latents
        back, log_det = inn(given, c=list(others), rev=True) if others else inn(given, rev=True)
        return back, log_det + torch.zeros(len(back))

    module = Conditional(inn) if more.get("others") else Several(inn) if more.get("latents") else Forward(inn)
    return Flow(name, "FrEIA", kind, module, x, inverse, **more)


def dense(channels_in: int, channels_out: int) -> nn.Module:
    """A conditioner of one hidden layer."""
    return nn.Sequential(nn.Linear(channels_in, 16), nn.ReLU(), nn.Linear(16, channels_out))


def conv(channels_in: int, channels_out: int) -> nn.Module:
    """A convolutional conditioner."""
    return nn.Sequential(
        nn.Conv2d(channels_in, 8, 3, padding=1), nn.LeakyReLU(0.1), nn.Conv2d(8, channels_out, 3, padding=1)
    )


def all_in_one(name: str) -> Flow:
    """All-in-one blocks with hard permutations."""
    inn = ff.SequenceINN(7)
    for _ in range(3):
        inn.append(fm.AllInOneBlock, subnet_constructor=dense)
    return flow(name, "coupling affine, soft clamp", inn, toy(7))


def all_in_one_soft(name: str) -> Flow:
    """All-in-one blocks: rotations, learned Householder reflections, reversed permutation, GIN, sigmoid scale."""
    inn = ff.SequenceINN(6)
    inn.append(fm.AllInOneBlock, subnet_constructor=dense, permute_soft=True, global_affine_type="SIGMOID")
    inn.append(fm.AllInOneBlock, subnet_constructor=dense, learned_householder_permutation=3)
    inn.append(fm.AllInOneBlock, subnet_constructor=dense, gin_block=True, reverse_permutation=True)
    return flow(name, "coupling affine, soft clamp, rotations", inn, toy(6))


def all_in_one_conv(name: str) -> Flow:
    """All-in-one blocks on images, conditional."""
    inn = ff.SequenceINN(2, 4, 4)
    inn.append(fm.IRevNetDownsampling)
    for _ in range(2):
        inn.append(fm.AllInOneBlock, subnet_constructor=conv, permute_soft=True, cond=0, cond_shape=(1, 2, 2))
    context = images(1, 2, seed=1)
    return flow(name, "coupling affine, images, conditional", inn, images(2, 4), others={"context": context})


def rnvp(name: str) -> Flow:
    """RealNVP blocks, conditional, clamped by tanh."""
    inn = ff.SequenceINN(6)
    for _ in range(2):
        inn.append(
            fm.RNVPCouplingBlock,
            subnet_constructor=dense,
            clamp_activation="TANH",
            cond=0,
            cond_shape=(3,),
        )
        inn.append(fm.PermuteRandom)
    context = toy(3, seed=1)
    return flow(name, "coupling affine, soft clamp, conditional", inn, toy(6), others={"context": context})


def glow(name: str) -> Flow:
    """Glow blocks of an uneven split, clamped by sigmoid, with act norm and permutations."""
    inn = ff.SequenceINN(5)
    for _ in range(2):
        inn.append(fm.ActNorm)
        inn.append(
            fm.GLOWCouplingBlock, subnet_constructor=dense, clamp=1.5, clamp_activation="SIGMOID", split_len=0.4
        )
        inn.append(fm.PermuteRandom)
    return flow(name, "coupling affine, soft clamp", inn, toy(5))


def gin(name: str) -> Flow:
    """Volume-preserving GIN blocks, then volume-preserving NICE blocks, with reflections between."""
    inn = ff.SequenceINN(6)
    inn.append(fm.GINCouplingBlock, subnet_constructor=dense)
    inn.append(fm.HouseholderPerm, n_reflections=3)
    inn.append(fm.NICECouplingBlock, subnet_constructor=dense)
    inn.append(fm.HouseholderPerm, n_reflections=2, fixed=True)
    return flow(name, "coupling, volume-preserving", inn, toy(6))


def orthogonal(name: str) -> Flow:
    """Orthogonal layer, one-sided couplings, invertible activations, elementwise scale, fixed matrix, sigmoid."""
    matrix = torch.eye(6) + 0.2 * torch.randn(6, 6)
    inn = ff.SequenceINN(6)
    inn.append(fm.FixedLinearTransform, M=matrix, b=0.1 * torch.randn(6))
    inn.append(fm.AffineCouplingOneSided, subnet_constructor=dense)
    inn.append(fm.InvAutoAct)
    inn.append(fm.PermuteRandom)
    inn.append(fm.AffineCouplingOneSided, subnet_constructor=dense)
    inn.append(fm.InvAutoActTwoSided)
    inn.append(fm.LearnedElementwiseScaling)
    inn.append(fm.InvertibleSigmoid)
    return flow(name, "coupling affine, elementwise", inn, 0.3 * toy(6), train=False)


def haar(name: str) -> Flow:
    """Haar wavelets, couplings, 1×1 convolution, then everything in one row and one more coupling."""
    rotation = torch.linalg.qr(torch.randn(8, 8))[0]
    inn = ff.SequenceINN(2, 4, 4)
    inn.append(fm.HaarDownsampling, rebalance=0.5, order_by_wavelet=True)
    inn.append(fm.GLOWCouplingBlock, subnet_constructor=conv)
    inn.append(fm.Fixed1x1Conv, M=rotation)
    inn.append(fm.NICECouplingBlock, subnet_constructor=conv)
    inn.append(fm.HaarUpsampling)
    inn.append(fm.Flatten)
    return flow(name, "coupling affine, images", inn, images(2, 4))


def irevnet(name: str) -> Flow:
    """A graph of FrEIA with i-RevNet squeezing, whose channels split: one part leaves, the other goes on."""
    source = ff.InputNode(2, 4, 4, name="x")
    nodes = [source]
    nodes.append(ff.Node(nodes[-1], fm.IRevNetDownsampling, {}))
    nodes.append(ff.Node(nodes[-1], fm.RNVPCouplingBlock, {"subnet_constructor": conv}))
    split = ff.Node(nodes[-1], fm.Split, {"section_sizes": [3, 5]})
    nodes.append(split)
    nodes.append(ff.Node(split.out1, fm.PermuteRandom, {}))
    nodes.append(ff.Node(nodes[-1], fm.GLOWCouplingBlock, {"subnet_constructor": conv}))
    nodes.append(ff.Node(nodes[-1], fm.Flatten, {}))
    ends = [ff.OutputNode(split.out0), ff.OutputNode(nodes[-1])]
    inn = ff.GraphINN([*nodes, *ends])
    return flow(name, "coupling affine, images, multi-scale", inn, images(2, 4), latents=2)


def split_concat(name: str) -> Flow:
    """A graph of FrEIA whose two branches meet again."""
    source = ff.InputNode(6, name="x")
    split = ff.Node(source, fm.Split, {"section_sizes": [2, 4]})
    upper = ff.Node(split.out0, fm.ActNorm, {})
    lower = ff.Node(split.out1, fm.RNVPCouplingBlock, {"subnet_constructor": dense})
    both = ff.Node([lower.out0, upper.out0], fm.Concat, {})
    last = ff.Node(both, fm.AllInOneBlock, {"subnet_constructor": dense})
    inn = ff.GraphINN([source, split, upper, lower, both, last, ff.OutputNode(last)])
    return flow(name, "coupling affine, branches", inn, toy(6))


def residual(name: str) -> Flow:
    """Two i-ResNet layers with ELU, Lipschitz constants held below one by the library's power iteration."""
    layers = [fm.IResNetLayer([(4,)], internal_size=16, spectral_norm_max=0.8) for _ in range(2)]
    with torch.no_grad():
        for layer in layers:
            for linear in layer.layers:
                linear.weight.mul_(4)
            layer.lipschitz_correction()
    module = Values(layers)
    return Flow(
        name,
        "FrEIA",
        "residual contraction",
        module,
        toy(4),
        lambda latents, _: (module.inverse(latents[0]), None),
        gives_log_det=False,
        noise=0.0,
        note="the library's log-det is an estimate by random vectors",
    )


FLOWS = {
    "freia_all_in_one": all_in_one,
    "freia_all_in_one_soft": all_in_one_soft,
    "freia_all_in_one_conv": all_in_one_conv,
    "freia_rnvp_context": rnvp,
    "freia_glow": glow,
    "freia_gin_nice_householder": gin,
    "freia_elementwise": orthogonal,
    "freia_haar": haar,
    "freia_irevnet_split": irevnet,
    "freia_split_concat": split_concat,
    "freia_iresnet": residual,
}
