"""Slimmable conv, batch norm and linear: one set of weights, of which a subnet uses the first channels.

Fully shared weights as in Slimmable Neural Networks (Yu et al. 2019, section 3). Which kernel a pair of widths uses is
decided in `SlimmableConv2d.kernel` alone: the place for other ways of sharing. `make_supernet` puts these modules
where a space has NNI's mutable ones.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias, TypeVar, cast

import torch
import torch.nn.functional as F
from nni.mutable import Categorical, Mutable, frozen_context
from nni.nas.nn.pytorch import MutableBatchNorm2d, MutableConv2d, MutableLinear
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from torch import Tensor, nn

from nni_nas_consistency.supernet.active import ActiveSubnet, Space
from nni_nas_consistency.supernet.batch_norm import BatchNormOfRows, scaled_sum, stands_in_rows

Width: TypeAlias = int | Categorical  # type: ignore[valid-type, unused-ignore]
"""A number of channels, or NNI's choice of one."""

State: TypeAlias = "Tensor | tuple[Tensor, ...]"
"""What goes from stage to stage: features [B, C, H, W], and behind them what is carried along."""

AnySpace = TypeVar("AnySpace", bound=Space)

SERVED_CHOICES = ("in_channels", "out_channels", "num_features", "in_features")
"""The arguments of NNI's mutable modules that may be choices; an expression of choices may not."""


class Stage(Protocol):
    """A part of a chain space; all modules in it put out the same width, which is that of the state's first tensor."""

    out: Width

    def __call__(self, state: State) -> State:
        """Return the next state."""


def width_at(width: Width, widths: Mapping[str, int]) -> int:
    """Return the channels that `width` means when the labels have these widths."""
    return widths[width.label] if isinstance(width, Categorical) else int(width)


def largest_width(width: Width) -> int:
    """Return the most channels that `width` may mean."""
    return max(width.values) if isinstance(width, Categorical) else width


class Slimmable(BaseSuperNetModule):  # type: ignore[misc]
    """A module whose first channels serve every subnet.

    `slices(widths)` gives the tensors of one subnet, views of the shared ones, by their names in a state dict.
    """

    active: ActiveSubnet

    def slices(self, widths: Mapping[str, int]) -> dict[str, Tensor]:
        """Return the weights and buffers of the subnet with these widths."""
        raise NotImplementedError

    def resample(self, memo: dict[str, Any]) -> dict[str, Any]:
        """Return nothing new: the strategy draws archs and sets the active subnet."""
        return {}

    def export(self, memo: dict[str, Any]) -> dict[str, Any]:
        """Return the active width of each label here."""
        return {choice.label: self.active.widths[choice.label] for choice in self.mutables}


class SlimmableConv2d(Slimmable, nn.Conv2d):
    """Convolution over the first input channels to the first output channels.

    Args:
        active: What the supernet runs as.
        arguments: What `MutableConv2d` was made with; `in_channels` and `out_channels` may be choices.
    """

    def __init__(self, active: ActiveSubnet, arguments: Mapping[str, Any]) -> None:
        self.width_in: Width = arguments["in_channels"]
        self.width_out: Width = arguments["out_channels"]
        fixed = {name: value for name, value in arguments.items() if name not in ("in_channels", "out_channels")}
        if fixed.get("groups", 1) != 1 or fixed.get("padding_mode", "zeros") != "zeros":
            raise ValueError(f"a slimmable conv takes groups=1 and padding_mode='zeros', not {fixed}")
        super().__init__(largest_width(self.width_in), largest_width(self.width_out), **fixed)
        self.active = active

    def kernel(self, channels_in: int, channels_out: int) -> Tensor:
        """Return the kernel of a pair of widths: [channels_out, channels_in, k, k]."""
        return self.weight[:channels_out, :channels_in]

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, active output width, H, W] from [B, active input width, H, W]."""
        out = width_at(self.width_out, self.active.widths)
        bias = None if self.bias is None else self.bias[:out].to(x.dtype)
        kernel = self.kernel(x.shape[1], out).to(x.dtype)
        return F.conv2d(x, kernel, bias, self.stride, self.padding, self.dilation)

    def slices(self, widths: Mapping[str, int]) -> dict[str, Tensor]:
        """Return the weights of the subnet with these widths."""
        out = width_at(self.width_out, widths)
        weight = {"weight": self.kernel(width_at(self.width_in, widths), out)}
        return weight if self.bias is None else weight | {"bias": self.bias[:out]}


class SlimmableBatchNorm2d(Slimmable, nn.BatchNorm2d):
    """Batch norm of the first channels, with one scale, shift and running statistics for all subnets.

    A stacked batch is normalised arch by arch with its own statistics, and loses the channels that an arch lacks.

    Args:
        active: What the supernet runs as.
        arguments: What `MutableBatchNorm2d` was made with; `num_features` may be a choice.
    """

    def __init__(self, active: ActiveSubnet, arguments: Mapping[str, Any]) -> None:
        self.width: Width = arguments["num_features"]
        fixed = {name: value for name, value in arguments.items() if name != "num_features"}
        super().__init__(largest_width(self.width), **fixed)
        if not (self.affine and self.track_running_stats):
            raise ValueError("a slimmable batch norm takes affine=True and track_running_stats=True")
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised [B, C, H, W]; C is the active width, or the largest one in a stacked batch."""
        if self.active.scales is not None:
            scale, shift = self.active.scales(self, x)
            return scaled_sum([(x.clone(), scale)], shift, relu=False)
        if self.active.masks is not None:
            return self._stacked(x, self._mask(self.active.masks))
        c = x.shape[1]
        if self.training and stands_in_rows(x):
            return self._of_rows(x)
        mean, var = self.running_mean[:c], self.running_var[:c]  # type: ignore[index]
        momentum = self._update_share() if self.training else 0.0
        return F.batch_norm(x, mean, var, self.weight[:c], self.bias[:c], self.training, momentum, self.eps)

    def slices(self, widths: Mapping[str, int]) -> dict[str, Tensor]:
        """Return the weights and running statistics of the subnet with these widths."""
        c = width_at(self.width, widths)
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        return {
            "weight": self.weight[:c],
            "bias": self.bias[:c],
            "running_mean": self.running_mean[:c],
            "running_var": self.running_var[:c],
            "num_batches_tracked": self.num_batches_tracked,
        }

    def _of_rows(self, x: Tensor) -> Tensor:
        """Normalise with the statistics of the batch, where torch's kernel is slow: channels-last, of any width."""
        c, pixels = x.shape[1], x.numel() // x.shape[1]
        y, mean, var = BatchNormOfRows.apply(x, self.weight[None, :c], self.bias[None, :c], self.eps)  # type: ignore[no-untyped-call]
        share = self._update_share()
        self.running_mean[:c].lerp_(mean[0], share)  # type: ignore[index]
        self.running_var[:c].lerp_(var[0] * (pixels / (pixels - 1)), share)  # type: ignore[index]
        return cast("Tensor", y)

    def _update_share(self) -> float:
        """Return how much the next batch moves the running statistics; without a momentum, all batches count alike."""
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        return 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum

    def _mask(self, masks: Mapping[str, Tensor]) -> Tensor:
        """Return which channels each arch of a stacked batch has here: [n, C]; of a fixed width, all."""
        if isinstance(self.width, Categorical):
            return masks[self.width.label]
        return self.weight.new_ones(len(next(iter(masks.values()))), self.width)

    def _stacked(self, x: Tensor, mask: Tensor) -> Tensor:
        """Normalise [n·B, C, H, W] arch by arch; channels that an arch lacks come out as zero."""
        if not self.training:
            raise RuntimeError("a stacked batch has statistics of its own only: put the batch norms into training mode")
        mask = mask.to(self.weight.dtype)
        y, mean, var = BatchNormOfRows.apply(x, self.weight * mask, self.bias * mask, self.eps)  # type: ignore[no-untyped-call]
        if self.momentum != 0:
            pixels = x.numel() // mean.numel()
            self._update_running(mean, var * (pixels / (pixels - 1)), mask)
        return cast("Tensor", y)

    @torch.no_grad()
    def _update_running(self, mean: Tensor, var: Tensor, mask: Tensor) -> None:
        """Move the running statistics as n passes one by one would, arch by arch; all three are [n, C]."""
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        if self.momentum is None:
            raise RuntimeError("cumulative statistics are estimated for one arch at a time, not for a stacked batch")
        self.num_batches_tracked.add_(len(mask))
        keep = 1 - self.momentum * mask
        kept_by_later = torch.cat([keep.flip(0).cumprod(0).flip(0)[1:], torch.ones_like(keep[:1])])
        share = self.momentum * mask * kept_by_later
        left = keep.prod(0)
        self.running_mean.mul_(left).add_((share * mean).sum(0))
        self.running_var.mul_(left).add_((share * var).sum(0))


class SlimmableLinear(Slimmable, nn.Linear):
    """Linear layer over the first input features.

    Args:
        active: What the supernet runs as.
        arguments: What `MutableLinear` was made with; `in_features` may be a choice.
    """

    def __init__(self, active: ActiveSubnet, arguments: Mapping[str, Any]) -> None:
        self.width_in: Width = arguments["in_features"]
        fixed = {name: value for name, value in arguments.items() if name != "in_features"}
        super().__init__(largest_width(self.width_in), **fixed)
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, K] from [B, active input width]."""
        # contiguous: backward then multiplies in the same order as in a layer of this width, bit for bit
        weight = self.weight[:, : x.shape[1]].contiguous().to(x.dtype)
        return F.linear(x, weight, None if self.bias is None else self.bias.to(x.dtype))

    def slices(self, widths: Mapping[str, int]) -> dict[str, Tensor]:
        """Return the weights of the subnet with these widths."""
        weight = {"weight": self.weight[:, : width_at(self.width_in, widths)]}
        return weight if self.bias is None else weight | {"bias": self.bias}


def relu_of_sum(*terms: tuple[nn.Module | None, Tensor]) -> Tensor:
    """Return relu(Σ norm(x)): batch norm, addition and ReLU, in one pass over memory where a scorer sets the scales.

    Args:
        terms: Batch norm and its input x [B, C, H, W], which may be overwritten: give what nothing else reads. The
            first has a norm; where a later one has None, x is added as it is, and kept.
    """
    norm = terms[0][0]
    scales = norm.active.scales if isinstance(norm, SlimmableBatchNorm2d) else None
    if scales is None:
        first, *others = (x if norm is None else norm(x) for norm, x in terms)
        return F.relu_(functools.reduce(operator.add, others, first))
    scaled: list[tuple[Tensor, Tensor | None]] = []
    shifts = []
    for norm, x in terms:
        scale, shift = (None, None) if norm is None else scales(cast("nn.BatchNorm2d", norm), x)
        scaled.append((x, scale))
        shifts += [] if shift is None else [shift]
    return scaled_sum(scaled, cast("Tensor", sum(shifts)), relu=True)


def make_supernet(space: AnySpace) -> AnySpace:
    """Turn a chain space, in place, into a supernet whose active subnet is the largest; return the same object.

    Raises:
        ValueError: The space is a supernet already.
        TypeError: A module has choices that no slimmable module serves.
    """
    if space.active is not None:
        raise ValueError("the space is a supernet already")
    active = ActiveSubnet(space.sample(space.largest))
    with frozen_context():  # NNI wants one wherever modules with choices are made
        _replace_modules(cast("nn.Module", space), active, "")
    space.active = active
    return space


def _replace_modules(module: nn.Module, active: ActiveSubnet, prefix: str) -> None:
    for name, child in list(module.named_children()):
        _check_choices(child, f"{prefix}{name}")
        new = _slimmable(child, active)
        if new is not None:
            module.register_module(name, new)
        else:
            _replace_modules(child, active, f"{prefix}{name}.")


def _check_choices(module: Any, name: str) -> None:
    if not isinstance(module, (MutableConv2d, MutableBatchNorm2d, MutableLinear)):
        if getattr(module, "mutables", None):
            raise TypeError(f"{name}: no slimmable module serves the choices of a {type(module).__name__}")
        return
    for argument, value in module.trace_kwargs.items():
        served = isinstance(value, Categorical) and argument in SERVED_CHOICES
        if isinstance(value, Mutable) and not served:
            raise TypeError(f"{name}: no slimmable module serves a choice of {argument} such as {value}")


def _slimmable(module: Any, active: ActiveSubnet) -> Slimmable | None:
    new: Any
    if isinstance(module, MutableConv2d):
        new = SlimmableConv2d(active, module.trace_kwargs)
    elif isinstance(module, MutableBatchNorm2d):
        new = SlimmableBatchNorm2d(active, module.trace_kwargs)
    elif isinstance(module, MutableLinear):
        new = SlimmableLinear(active, module.trace_kwargs)
    else:
        return None
    for choice in module.mutables:
        new.add_mutable(choice)
    return cast("Slimmable", new)
