"""Fresh weights, as a recipe draws them."""

from __future__ import annotations

from typing import cast

import torch
from nni.nas.nn.pytorch import ModelSpace
from torch import nn

from nni_nas_consistency.training.recipes import Init


@torch.no_grad()
def initialise(network: ModelSpace | nn.Module, init: Init, generator: torch.Generator) -> None:
    """Draw fresh weights for a supernet or a network.

    Args:
        network: A space after `make_supernet`, or a network in plain layers.
        init: See `Recipe`. Torch's own were drawn when the modules were made, from torch's global generator.
        generator: Where the randomness comes from.
    """
    if init == "torch":
        return
    if init == "channels-in":
        _initialise_by_channels(cast("nn.Module", network), generator)
        return
    for module in cast("nn.Module", network).modules():
        if init == "trunc-normal" and isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02, generator=generator)
        elif init == "kaiming-fan-out" and isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_uniform_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        else:
            continue
        if module.bias is not None:
            module.bias.zero_()


def _initialise_by_channels(network: nn.Module, generator: torch.Generator) -> None:
    """Draw weights as SPOS-CIFAR does; see `Recipe`."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.normal_(0, 1 / module.in_channels, generator=generator)
        elif isinstance(module, nn.Linear):
            module.weight.normal_(0, 0.01, generator=generator)
        elif isinstance(module, nn.BatchNorm2d) and module.bias is not None:
            module.bias.fill_(1e-4)
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            module.bias.zero_()
