"""Parameters that are not those of an identity: noise on all of them, then steps of maximum likelihood."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .flow import Flow

STEPS = 80
RATE = 5e-3


def prepare(flow: Flow) -> None:
    """Move the flow's parameters off their initial values, and put it into evaluation mode.

    Noise comes first (many libraries begin at zero in the last layer of each conditioner), then what initialises
    itself from data sees the data, then `STEPS` of Adam on the likelihood under a standard normal.
    """
    inputs = (flow.x, *flow.others.values())
    with torch.no_grad():
        for parameter in flow.module.parameters():
            if parameter.requires_grad:
                parameter.add_(flow.noise * torch.randn_like(parameter))
    flow.module.train()
    with torch.no_grad():
        flow.module(*inputs)
    if flow.train and flow.gives_log_det:
        maximise_likelihood(flow, inputs)
    flow.module.eval()
    for parameter in flow.module.parameters():
        parameter.requires_grad_(False)


def maximise_likelihood(flow: Flow, inputs: tuple[torch.Tensor, ...]) -> None:
    """Adam on log N(z; 0, 1) + log|det ∂z/∂x|."""
    trainable = [parameter for parameter in flow.module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trainable, lr=RATE)
    for _ in range(STEPS):
        optimizer.zero_grad()
        *latents, log_abs_det = flow.module(*inputs)
        square = sum(latent.flatten(1).square().sum(1) for latent in latents)
        loss = (0.5 * square - log_abs_det).mean()
        if not torch.isfinite(loss):
            raise SystemExit(f"{flow.name}: the likelihood is not finite")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 5.0)
        optimizer.step()
