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
    for module in cast("nn.Module", network).modules():
        if init == "trunc-normal" and isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02, generator=generator)
        elif init == "kaiming-fan-out" and isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_uniform_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        else:
            continue
        if module.bias is not None:
            module.bias.zero_()
