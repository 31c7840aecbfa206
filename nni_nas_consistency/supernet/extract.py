"""sub_state_dict: the weights of one subnet, sliced out of the supernet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import cast

from torch import Tensor, nn

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.supernet.active import Space
from nni_nas_consistency.supernet.modules import Slimmable


class OptionalModule(nn.Module):
    """A module that some subnets do without."""

    def is_absent(self, widths: Mapping[str, int]) -> bool:
        """Return whether the subnet with these widths lacks this module."""
        raise NotImplementedError


def sub_state_dict(supernet: Space, arch: Arch) -> dict[str, Tensor]:
    """Return the state dict of one subnet, ready for `load_state_dict(strict=True)` of the frozen space.

    The tensors are views of the supernet's: nothing is copied, and what is written into them is written into the
    supernet. `load_state_dict` copies.

    Args:
        supernet: A chain space after `make_supernet`.
        arch: The subnet.

    Raises:
        ValueError: The space is no supernet, so that it has no shared weights.
    """
    if supernet.active is None:
        raise ValueError("the space is no supernet: train it with SandwichStrategy, or call make_supernet first")
    return {name: tensor.detach() for name, tensor in _slices(cast("nn.Module", supernet), supernet.sample(arch), "")}


def copy_into(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a network copies of tensors as its weights and buffers, on their device and of their type.

    As `load_state_dict(copies, strict=True, assign=True)`, in a quarter of the time: 0.6 of 2.2 ms for ResNet20.

    Raises:
        KeyError: The names are not those of the network's state dict.
    """
    left = dict(tensors)
    for name, tensor in chain(network.named_parameters(), network.named_buffers()):
        tensor.data = left.pop(name).clone()
    if left:
        raise KeyError(f"the network has no {next(iter(left))}")


def _slices(module: nn.Module, widths: Mapping[str, int], prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, child in module._modules.items():
        if isinstance(child, Slimmable):
            for key, tensor in child.slices(widths).items():
                yield f"{prefix}{name}.{key}", tensor
        elif child is not None and not (isinstance(child, OptionalModule) and child.is_absent(widths)):
            yield from _slices(child, widths, f"{prefix}{name}.")
