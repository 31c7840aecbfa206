"""Unsharing: a supernet whose kernels start as slices of another's, so that archs stop sharing what they shared.

First and fourth place of CVPR 2021 NAS track 1 trained a fully shared supernet, then went on with a kernel for each
output width; the first with kernels for groups of neighbouring widths in between.
"""

from __future__ import annotations

from itertools import chain
from typing import cast

import torch
from nni.nas.nn.pytorch import ModelSpace
from torch import Tensor, nn

from nni_nas_consistency.errors import InputError
from nni_nas_consistency.supernet.active import active_of
from nni_nas_consistency.supernet.modules import ElasticBank
from nni_nas_consistency.supernet.sharing import coarser


def unshare(shared: ModelSpace, supernet: ModelSpace) -> None:
    """Start each kernel of a supernet from the slice that another supernet uses for its widths.

    Every arch then has the logits that it has in the other supernet, bit for bit: weights, scale and shift, and running
    statistics are copied.

    Args:
        shared: A chain space after `make_supernet`.
        supernet: The same space after `make_supernet` with a sharing at least as fine; it is written into.

    Raises:
        ValueError: One of them is no supernet.
        InputError: Some kernels of `supernet` would have to be several of `shared` at once; or the spaces differ.
    """
    before, after = active_of(shared).sharing, active_of(supernet).sharing
    if not after.refines(before):
        raise InputError(coarser(f"a supernet of {before}", after))
    if type(shared) is not type(supernet) or shared.args != supernet.args:
        raise InputError(f"{type(supernet).__name__} cannot start from a different space; give both the same arguments")
    _start(cast("nn.Module", shared), cast("nn.Module", supernet))


@torch.no_grad()
def _start(shared: nn.Module, module: nn.Module) -> None:
    if isinstance(module, ElasticBank):
        for pair, key in module.bank.keys.items():
            _start(shared.serving(pair) if isinstance(shared, ElasticBank) else shared, module.get_submodule(key))
        return
    tensors = _own_tensors(shared)
    for name, tensor in _own_tensors(module).items():
        tensor.copy_(tensors[name][tuple(map(slice, tensor.shape))])
    for name, child in module.named_children():
        _start(shared.get_submodule(name), child)


def _own_tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict(chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False)))
