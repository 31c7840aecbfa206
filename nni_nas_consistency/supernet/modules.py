"""Elastic modules: one set of shared weights, of which each subnet uses the leading channels, or some candidates.

Channels are shared as in Slimmable Neural Networks (Yu et al. 2019, section 3). Elastic modules replace NNI's mutable
modules in a chain space (`make.py`). Each reads the current run from the supernet's `Active`, and resolves its own
widths, operator, inputs or depth from the archs of that run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from nni.mutable import Mutable
from nni.nas.nn.pytorch import (
    InputChoice,
    LayerChoice,
    MutableBatchNorm2d,
    MutableConv2d,
    MutableLayerNorm,
    MutableLinear,
    MutableModule,
    ParametrizedModule,
    Repeat,
)
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from torch import Tensor, nn

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.supernet import native
from nni_nas_consistency.supernet.active import Active, Resolved, Run, channels_present, value_pairs, width_of
from nni_nas_consistency.supernet.batch_norm import BatchNormOfRows, Normalised, Scaled, stands_in_rows
from nni_nas_consistency.supernet.native import BatchNormed
from nni_nas_consistency.supernet.processes import normalise_over_processes
from nni_nas_consistency.supernet.sharing import FULL, Bank, Pair, Rule, Sharing


@runtime_checkable
class Sliced(Protocol):
    """A module of which a subnet has slices of the weights."""

    def slices(self, arch: Arch) -> dict[str, Tensor]:
        """Return the subnet's weights and buffers, views of the shared ones, by their names in a state dict."""


@runtime_checkable
class Branching(Protocol):
    """A module of which a subnet may lack children."""

    def subnet_children(self, arch: Arch) -> Iterable[tuple[str, nn.Module]]:
        """Return the subnet's children by their names in the frozen subnet; a child named "" replaces the module."""


class ConvBN(nn.Module):
    """A convolution without bias and its batch norm, as one module: the norm may overwrite the convolution's output.

    Args:
        channels_in: Input channels: an integer, a choice of NNI, or an expression of choices.
        channels_out: Output channels, likewise.
        kernel_size: Side of the kernel, in pixels, or a choice; odd numbers. The padding keeps the size at stride 1.
        stride: Stride of the convolution, in pixels.
        groups: 1, or `channels_in` for a depthwise convolution.
        affine: Whether the batch norm has a scale and a shift.
    """

    def __init__(
        self,
        channels_in: Any,
        channels_out: Any,
        kernel_size: int,
        *,
        stride: int = 1,
        groups: Any = 1,
        affine: bool = True,
    ) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.conv = MutableConv2d(
            channels_in, channels_out, kernel_size, stride=stride, padding=padding, groups=groups, bias=False
        )
        self.bn = MutableBatchNorm2d(channels_out) if affine else MutableBatchNorm2d(channels_out, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised features [B, channels out, H, W]."""
        normalised: Tensor = self.bn(self.conv(x))
        return normalised


class Elastic(BaseSuperNetModule):  # type: ignore[misc]
    """Base of elastic modules, with the methods that NNI calls; `active_subnet` sets the arch of all at once."""

    active: Active

    def resample(self, memo: dict[str, Any]) -> dict[str, Any]:
        """Return no choices: the strategy draws archs and sets the active subnet."""
        return {}

    def export(self, memo: dict[str, Any]) -> dict[str, Any]:
        """Return the active arch's choice for each label of this module."""
        choices = self.active.run.archs[0].choices
        return {label: choices[label] for mutable in self.mutables for label in mutable.simplify()}


class ElasticConv2d(Elastic, nn.Conv2d):
    """Convolution from the first input channels to the first output channels.

    Args:
        active: Holds the current run of the supernet.
        arguments: Arguments of `MutableConv2d`; channels may be choices or expressions of choices, and so may `groups`
            if it equals both (depthwise).
        size: Input and output channels of the kernel; None: the largest that any arch has.
    """

    def __init__(self, active: Active, arguments: Mapping[str, Any], size: Pair | None = None) -> None:
        self.width_in, self.width_out = width_of(arguments["in_channels"]), width_of(arguments["out_channels"])
        size_in, size_out = size or (self.width_in.largest, self.width_out.largest)
        groups = width_of(arguments.get("groups", 1))
        fixed = {
            name: value for name, value in arguments.items() if name not in ("in_channels", "out_channels", "groups")
        }
        super().__init__(size_in, size_out, groups=size_in if groups.varies else groups.largest, **fixed)
        self.depthwise = groups.varies
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, active output width, H, W] from [B, active input width, H, W]; absent channels are zero."""
        return without_absent(self.convolve(x), 1, self.width_out, self.active.run)

    def convolve(self, x: Tensor) -> Tensor:
        """Return what `forward` does, but with arbitrary values in absent channels, which a batch norm will zero."""
        out = x.shape[1] if self.depthwise else widest(self.width_out, self.active.run)
        kernel = self._kernel(x.shape[1], out).to(x.dtype)
        bias = None if self.bias is None else self.bias[:out].to(x.dtype)
        groups = x.shape[1] if self.depthwise else 1
        return F.conv2d(x, kernel, bias, self.stride, self.padding, self.dilation, groups)

    def slices(self, arch: Arch) -> dict[str, Tensor]:
        """Return the weights of the subnet."""
        out = self.width_out.at(arch)
        weights = {"weight": self._kernel(self.width_in.at(arch), out)}
        return weights if self.bias is None else weights | {"bias": self.bias[:out]}

    def _kernel(self, channels_in: int, channels_out: int) -> Tensor:
        """Return the kernel of a pair of widths: [channels_out, channels_in / groups, k, k]."""
        return self.weight[:channels_out, : 1 if self.depthwise else channels_in]


@dataclass(frozen=True)
class BatchMoments:
    """The moments of a batch, from which a batch norm updates its running statistics.

    Args:
        mean: [archs, C].
        var: The unbiased variance, [archs, C].
        widths: How many of the channels each arch has.
    """

    mean: Tensor
    var: Tensor
    widths: tuple[int, ...]


class ElasticBatchNorm2d(Elastic, nn.BatchNorm2d):
    """Batch norm of the first channels, whose weight, bias and running statistics all subnets share.

    y = weight · (x − mean) / √(var + eps) + bias. In a stacked batch, each arch is normalised with the statistics of
    its own images, and absent channels become zero.

    Args:
        active: Holds the current run of the supernet.
        arguments: Arguments of `MutableBatchNorm2d`; `num_features` may be a choice or an expression of choices.
        size: Input channels of the convolution before, and channels; None: the largest that any arch has.
    """

    put_off: list[BatchMoments] | None = None
    """Where moments are kept, in place of an update of the running statistics; None: these are updated at once."""

    over_processes = False
    """Whether the statistics of a batch in training mode are those of all processes, see `processes.py`."""

    def __init__(self, active: Active, arguments: Mapping[str, Any], size: Pair | None = None) -> None:
        self.width = width_of(arguments["num_features"])
        fixed = {name: value for name, value in arguments.items() if name != "num_features"}
        super().__init__(self.width.largest if size is None else size[1], **fixed)
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised [B, C, H, W]; C is the widest active width."""
        if self.active.run.statistics is not None:
            return cast("Tensor", self.scaled(x.clone()))
        return self.normalise(x)

    def scaled(self, x: Tensor) -> Normalised:
        """Return x, normalised with the run's statistics, as a `Normalised`, which may overwrite x."""
        run = self.active.run
        assert run.statistics is not None
        mean, var = run.statistics.moments(self, x, len(run.archs))
        weight, bias = self._affine(x.shape[1], mean)
        scale = weight * (var + self.eps).rsqrt()
        shift = bias - mean * scale
        present = self._present(run, x)
        if present is not None:
            present = present.to(scale.dtype).repeat_interleave(max(1, len(scale) // len(present)), 0)
            scale, shift = scale * present, shift * present
        return Normalised(Scaled(x, scale, shift))

    def normalise(self, x: Tensor) -> Tensor:
        """Return x, normalised as in torch: with the batch's statistics in training mode, else the running ones."""
        if self.over_processes and self.training:
            return self._over_processes(x)
        if len(self.active.run.archs) > 1:
            return self._stacked(x)
        c = x.shape[1]
        if self.training and (native.supports(x) or stands_in_rows(x)):
            weight, bias = self._affine(c, self.running_mean)  # type: ignore[arg-type]
            return self._with_own_statistics(x, weight[None], bias[None], (c,))
        mean, var = self.running_mean[:c], self.running_var[:c]  # type: ignore[index]
        weight, bias = self._affine(c, mean)
        if self.training and self.put_off is not None:
            moments = BatchMoments(torch.zeros_like(mean)[None], torch.ones_like(var)[None], (c,))
            self.put_off.append(moments)  # with momentum 1, torch writes the moments of the batch there
            return F.batch_norm(x, moments.mean[0], moments.var[0], weight, bias, True, 1.0, self.eps)
        momentum = self._update_share() if self.training else 0.0
        return F.batch_norm(x, mean, var, weight, bias, self.training, momentum, self.eps)

    def slices(self, arch: Arch) -> dict[str, Tensor]:
        """Return the weights and running statistics of the subnet."""
        c = self.width.at(arch)
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        affine = {"weight": self.weight[:c], "bias": self.bias[:c]} if self.affine else {}
        running = {"running_mean": self.running_mean[:c], "running_var": self.running_var[:c]}
        return {**affine, **running, "num_batches_tracked": self.num_batches_tracked}

    def _affine(self, c: int, like: Tensor) -> tuple[Tensor, Tensor]:
        if self.affine:
            return self.weight[:c], self.bias[:c]
        return like.new_ones(c), like.new_zeros(c)

    def _present(self, run: Run, x: Tensor) -> Tensor | None:
        """Return the mask of the channels that each arch has, [archs, C], or None if all archs have all of them."""
        widths = tuple(self.width.at(arch) for arch in run.archs)
        if min(widths) == x.shape[1]:
            return None
        return channels_present(widths, x.shape[1], x.device)

    def _with_own_statistics(self, x: Tensor, weight: Tensor, bias: Tensor, widths: tuple[int, ...]) -> Tensor:
        """Normalise channels-last features of archs of these widths, each with the statistics of its own images.

        Weight and bias are [archs, C]. With a native kernel, what comes back is computed with the ReLU that follows.
        """
        if native.supports(x):
            mean, var = native.moments(x.detach(), len(weight))
            y: Any = Normalised(BatchNormed(x, weight.float(), bias.float(), mean, var, self.eps))
        else:
            y, mean, var = BatchNormOfRows.apply(x, weight, bias, self.eps)  # type: ignore[no-untyped-call]
        pixels = x.numel() // mean.numel()
        self._keep(BatchMoments(mean, var * (pixels / (pixels - 1)), widths))
        return cast("Tensor", y)

    def _update_share(self) -> float:
        """Return the weight of the next batch in the running statistics; momentum None averages over all batches."""
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        return 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum

    def _stacked(self, x: Tensor) -> Tensor:
        """Normalise [archs · B, C, H, W] arch by arch; channels that an arch lacks come out as zero."""
        if not self.training:
            raise RuntimeError(
                "a stacked batch can only be normalised with its own statistics: put the batch norms into training mode"
            )
        run = self.active.run
        widths = tuple(self.width.at(arch) for arch in run.archs)
        weight, bias = self._affine(x.shape[1], x)
        mask = channels_present(widths, x.shape[1], x.device).to(weight.dtype)
        return self._with_own_statistics(x, weight * mask, bias * mask, widths)

    def _over_processes(self, x: Tensor) -> Tensor:
        """Normalise arch by arch with the statistics of the images that all processes have."""
        widths = tuple(self.width.at(arch) for arch in self.active.run.archs)
        weight, bias = self._affine(x.shape[1], x)
        mask = channels_present(widths, x.shape[1], x.device).to(weight.dtype)
        y, moments = normalise_over_processes(x, weight * mask, bias * mask, self.eps)
        self._keep(BatchMoments(*moments, widths))
        return y

    def _keep(self, moments: BatchMoments) -> None:
        if self.put_off is None:
            self.update_running(moments)
        else:
            self.put_off.append(moments)

    @torch.no_grad()
    def update_running(self, moments: BatchMoments) -> None:
        """Update the running statistics as if the archs of a batch ran one after the other."""
        if self.momentum is None and len(moments.widths) > 1:
            raise RuntimeError(
                "a stacked batch cannot update cumulative statistics (momentum=None); run the archs one by one"
            )
        assert self.running_mean is not None and self.running_var is not None
        for of_arch, var_of_arch, width in zip(moments.mean, moments.var, moments.widths, strict=True):
            share = self._update_share()
            self.running_mean[:width].lerp_(of_arch[:width], share)
            self.running_var[:width].lerp_(var_of_arch[:width], share)


class ElasticBank(Elastic, nn.Module):
    """Several elastic layers in place of one, each for some pairs of widths; that of the active arch runs.

    All its archs use one layer of the bank if several are stacked. Only layers that ran have gradients.

    Args:
        active: Holds the current run of the supernet.
        bank: Which layer serves which pair of widths.
        width_in: Input width of the layer; for a batch norm, that of the convolution before.
        width_out: Output width.
        layers: The layers, by the keys of the bank.
    """

    def __init__(
        self, active: Active, bank: Bank, width_in: Resolved, width_out: Resolved, layers: Mapping[str, Elastic]
    ) -> None:
        super().__init__()
        self.bank, self.width_in, self.width_out = bank, width_in, width_out
        for key, layer in layers.items():
            self.add_module(key, layer)
        self.active = active

    def at(self, arch: Arch) -> nn.Module:
        """Return the layer that an arch uses."""
        return self.serving((self.width_in.at(arch), self.width_out.at(arch)))

    def serving(self, pair: Pair) -> nn.Module:
        """Return the layer for a pair of input and output width."""
        return cast("nn.Module", self._modules[self.bank.keys[pair]])

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the active arch's layer."""
        return cast("Tensor", self.at(self.active.run.archs[0])(x))

    def subnet_children(self, arch: Arch) -> Iterable[tuple[str, nn.Module]]:
        """Return the layer of the subnet, which takes the place of the bank in a frozen subnet."""
        return [("", self.at(arch))]


def layer_at(layer: nn.Module, arch: Arch) -> Any:
    """Return a layer, or the one of a bank that an arch uses."""
    return layer.at(arch) if isinstance(layer, ElasticBank) else layer


class ElasticConvBN(Elastic, nn.Module):
    """`ConvBN` of a supernet.

    Args:
        active: Holds the current run of the supernet.
        conv: The convolution, or a bank of them.
        bn: The batch norm, which may overwrite the output of the convolution, or a bank of them.
    """

    def __init__(self, active: Active, conv: ElasticConv2d | ElasticBank, bn: ElasticBatchNorm2d | ElasticBank) -> None:
        super().__init__()
        self.conv, self.bn = conv, bn
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised features [B, active output width, H, W]."""
        run = self.active.run
        conv: ElasticConv2d = layer_at(self.conv, run.archs[0])
        bn: ElasticBatchNorm2d = layer_at(self.bn, run.archs[0])
        x = conv.convolve(x)
        if run.statistics is not None:
            return cast("Tensor", bn.scaled(x))
        return bn.normalise(x)


class ElasticLinear(Elastic, nn.Linear):
    """Linear layer from the first input features to the first output features.

    Args:
        active: Holds the current run of the supernet.
        arguments: Arguments of `MutableLinear`; features may be choices or expressions of choices.
        size: Input and output features of the weights; None: the largest that any arch has.
    """

    def __init__(self, active: Active, arguments: Mapping[str, Any], size: Pair | None = None) -> None:
        self.width_in, self.width_out = width_of(arguments["in_features"]), width_of(arguments["out_features"])
        fixed = {name: value for name, value in arguments.items() if name not in ("in_features", "out_features")}
        size_in, size_out = size or (self.width_in.largest, self.width_out.largest)
        super().__init__(size_in, size_out, **fixed)
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, …, active output width] from [B, …, active input width]; absent features are zero."""
        out = widest(self.width_out, self.active.run)
        # contiguous, so that backward multiplies in the same order as a layer of this width, bit for bit
        weight = self.weight[:out, : x.shape[-1]].contiguous().to(x.dtype)
        y = F.linear(x, weight, None if self.bias is None else self.bias[:out].to(x.dtype))
        return without_absent(y, -1, self.width_out, self.active.run)

    def slices(self, arch: Arch) -> dict[str, Tensor]:
        """Return the weights of the subnet."""
        out = self.width_out.at(arch)
        weights = {"weight": self.weight[:out, : self.width_in.at(arch)]}
        return weights if self.bias is None else weights | {"bias": self.bias[:out]}


class ElasticLayerNorm(Elastic, nn.LayerNorm):
    """Layer norm over the first features. Archs of different widths here cannot be stacked.

    Args:
        active: Holds the current run of the supernet.
        arguments: Arguments of `MutableLayerNorm`; `normalized_shape` may be a choice or an expression of choices.
    """

    def __init__(self, active: Active, arguments: Mapping[str, Any]) -> None:
        self.width = width_of(arguments["normalized_shape"])
        fixed = {name: value for name, value in arguments.items() if name != "normalized_shape"}
        super().__init__(self.width.largest, **fixed)
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised [B, …, active width]."""
        c = int(self.width.at(self.active.run.archs[0]))
        weight = None if self.weight is None else self.weight[:c]
        bias = None if self.bias is None else self.bias[:c]
        return F.layer_norm(x, (c,), weight, bias, self.eps)

    def slices(self, arch: Arch) -> dict[str, Tensor]:
        """Return the weights of the subnet."""
        c = self.width.at(arch)
        named = {"weight": self.weight, "bias": self.bias}
        return {name: tensor[:c] for name, tensor in named.items() if tensor is not None}


class ElasticLayerChoice(Elastic, nn.Module):
    """A choice between operators, each with weights of its own; the active arch's one runs.

    Args:
        active: Holds the current run of the supernet.
        choice: The `LayerChoice` of the space; its candidates keep their names and weights.
    """

    def __init__(self, active: Active, choice: LayerChoice) -> None:
        super().__init__()
        self.label = choice.label
        for name in choice.names:
            self.add_module(str(name), choice[name])
        self.active = active

    def chosen(self, arch: Arch) -> nn.Module:
        """Return the operator of an arch."""
        return self.get_submodule(str(arch.choices[self.label]))

    def forward(self, *inputs: Any) -> Any:
        """Return the output of the active operator."""
        return self.chosen(self.active.run.archs[0])(*inputs)

    def subnet_children(self, arch: Arch) -> Iterable[tuple[str, nn.Module]]:
        """Return the operator of the subnet, which takes the place of the choice in a frozen subnet."""
        return [("", self.chosen(arch))]


class ElasticInputChoice(Elastic, nn.Module):
    """A choice of inputs: those of the active arch are summed, averaged or concatenated.

    Args:
        active: Holds the current run of the supernet.
        choice: The `InputChoice` of the space.
    """

    def __init__(self, active: Active, choice: InputChoice) -> None:
        super().__init__()
        self.label, self.reduction = choice.label, choice.reduction
        self.active = active

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """Return the chosen inputs, reduced to one."""
        indices = self.active.run.archs[0].choices[self.label]
        assert isinstance(indices, tuple)
        chosen = [inputs[cast("int", index)] for index in indices]
        if len(chosen) == 1:
            return chosen[0]
        if self.reduction == "concat":
            return torch.cat(chosen, 1)
        total = cast("Tensor", sum(chosen))
        return total / len(chosen) if self.reduction == "mean" else total

    def subnet_children(self, arch: Arch) -> Iterable[tuple[str, nn.Module]]:
        """Return no children: there are no weights."""
        return []


class ElasticRepeat(Elastic, nn.Module):
    """The first modules of a sequence, as many as the active arch is deep.

    Args:
        active: Holds the current run of the supernet.
        repeat: The `Repeat` of the space; its modules keep their weights.
    """

    def __init__(self, active: Active, repeat: Repeat) -> None:
        super().__init__()
        self.depth = Resolved(repeat.depth_choice)
        self.blocks = nn.ModuleList(repeat.blocks)  # NNI's name, so that weights keep theirs
        self.active = active

    def forward(self, x: Any) -> Any:
        """Return the output of the active arch's modules, run one after the other."""
        for _, module in self.subnet_children(self.active.run.archs[0]):
            x = module(x)
        return x

    def subnet_children(self, arch: Arch) -> Iterable[tuple[str, nn.Module]]:
        """Return the modules of the subnet; the frozen subnet has them in an `nn.Sequential`."""
        return [(str(index), module) for index, module in enumerate(self.blocks[: self.depth.at(arch)])]


def widest(width: Resolved, run: Run) -> int:
    """Return the largest width of the archs that run, in channels."""
    return max(int(width.at(arch)) for arch in run.archs)


def without_absent(x: Tensor, dim: int, width: Resolved, run: Run) -> Tensor:
    """Return a stacked batch, [archs · B, …], with zeros in the channels that an arch lacks; channels are at `dim`."""
    widths = tuple(int(width.at(arch)) for arch in run.archs)
    if min(widths) == x.shape[dim]:
        return x
    shape = [len(widths), *(1 for _ in x.shape)]
    shape[dim if dim < 0 else dim + 1] = x.shape[dim]
    present = channels_present(widths, x.shape[dim], x.device).to(x.dtype).view(shape)
    return (x.reshape(len(widths), -1, *x.shape[1:]) * present).flatten(0, 1)


def elastic(
    module: nn.Module, active: Active, sharing: Sharing = FULL, conv: nn.Module | None = None
) -> nn.Module | None:
    """Return the elastic version of a module of a chain space, or None if it has none, such as a plain convolution.

    It keeps type, device, mode, eps and momentum of the module, and its weights if they have the same size.

    Args:
        module: The module.
        active: Holds the current run of the supernet.
        sharing: Which pairs of widths have a kernel in common.
        conv: Of a batch norm in a `ConvBN`, the convolution before.

    Raises:
        TypeError: A number of channels is not an integer in some arch.
        ValueError: A rule of the sharing cannot be followed in a layer.
    """
    if type(module) is ConvBN:
        of_conv, of_bn = elastic(module.conv, active, sharing), elastic(module.bn, active, sharing, module.conv)
        if of_conv is None or of_bn is None:
            return None
        new: Any = ElasticConvBN(active, cast("Any", of_conv), cast("Any", of_bn))
    else:
        new = _elastic_choice(module, active) or _elastic_layer(module, active, sharing, conv)
    if new is None:
        return None
    new.training = module.training
    if isinstance(module, MutableModule):
        for mutable in module.mutables:
            new.add_mutable(mutable)
    return cast("nn.Module", new)


def differ_by_width_alone(module: nn.Module) -> bool:
    """Return whether archs of a stacked batch may differ in the choices of a module: numbers of channels only."""
    if isinstance(module, Elastic):
        return isinstance(module, (ElasticConv2d, ElasticBatchNorm2d, ElasticLinear, ElasticBank))
    return type(module) is not MutableLayerNorm and _has_elastic_channels(module)


ELASTIC: Mapping[type[nn.Module], tuple[Any, frozenset[str]]] = {
    MutableConv2d: (ElasticConv2d, frozenset({"in_channels", "out_channels", "groups"})),
    MutableBatchNorm2d: (ElasticBatchNorm2d, frozenset({"num_features"})),
    MutableLinear: (ElasticLinear, frozenset({"in_features", "out_features"})),
    MutableLayerNorm: (ElasticLayerNorm, frozenset({"normalized_shape"})),
}
"""NNI's layers with their elastic versions, and the arguments that may be choices in these."""


def _elastic_choice(module: nn.Module, active: Active) -> Elastic | None:
    if type(module) is LayerChoice:
        return ElasticLayerChoice(active, module)
    if type(module) is InputChoice and module.n_chosen is not None and module.reduction != "none":
        return ElasticInputChoice(active, module)
    if type(module) is Repeat:
        return ElasticRepeat(active, module)
    return None


def _elastic_layer(module: nn.Module, active: Active, sharing: Sharing, conv: nn.Module | None) -> Elastic | None:
    """Return an elastic layer, or None; a batch norm of fixed width needs one too, for stacked batches and scoring."""
    make: Any = None
    if type(module) in (nn.BatchNorm2d, MutableBatchNorm2d) and not _choices_of(module):
        norm = cast("nn.BatchNorm2d", module)
        if norm.track_running_stats:
            arguments = {"num_features": norm.num_features, "affine": norm.affine}
            make = partial(ElasticBatchNorm2d, active, arguments)
    elif _has_elastic_channels(module):
        make = partial(ELASTIC[type(module)][0], active, cast("Any", module).trace_kwargs)
    found = _bank_of(module, sharing, conv)
    if found is None:
        return None if make is None else _taking_over(make(), module)
    if make is None:
        raise ValueError(f"NNI's supernet module serves its choices, and cannot share by {sharing}; give full")
    bank, width_in, width_out = found
    layers = {key: _taking_over(make(size), module) for key, size in bank.sizes.items()}
    return ElasticBank(active, bank, width_in, width_out, layers)


def _bank_of(module: nn.Module, sharing: Sharing, conv: nn.Module | None) -> tuple[Bank, Resolved, Resolved] | None:
    """Return the bank of a layer, its input and its output width; None if all archs have one kernel.

    Raises:
        ValueError: The rule asks for the input width of a batch norm that is not in a `ConvBN`.
    """
    rule = _rule_of(module, sharing)
    if isinstance(module, nn.BatchNorm2d) and conv is None and rule.by_input:
        raise ValueError(
            f"bn={sharing.bn} asks for the input width of the convolution before; put both into a ConvBN, or give "
            "bn=full or bn=end"
        )
    if rule.word == "full" or not isinstance(module, ParametrizedModule):
        return None
    arguments = module.trace_kwargs
    if isinstance(module, nn.BatchNorm2d):
        width_out = width_of(arguments["num_features"])
        width_in = width_out if conv is None else width_of(cast("Any", conv).trace_kwargs["in_channels"])
    else:
        unit = "features" if isinstance(module, nn.Linear) else "channels"
        width_in, width_out = width_of(arguments[f"in_{unit}"]), width_of(arguments[f"out_{unit}"])
    tied = not set(width_in.labels).isdisjoint(width_out.labels)
    bank = Bank.of(rule, value_pairs(width_in, width_out), tied=tied)
    return None if len(bank.sizes) == 1 else (bank, width_in, width_out)


def _rule_of(module: nn.Module, sharing: Sharing) -> Rule:
    if isinstance(module, nn.Conv2d):
        return Rule.of(sharing.conv)
    if isinstance(module, nn.BatchNorm2d):
        return Rule.of(sharing.bn)
    return Rule.of(sharing.fc if isinstance(module, nn.Linear) else "full")


def _has_elastic_channels(module: nn.Module) -> bool:
    """Return whether an elastic layer supports the choices of one of NNI's layers."""
    choices = _choices_of(module)
    if type(module) not in ELASTIC or not choices or not choices.keys() <= ELASTIC[type(module)][1]:
        return False
    if isinstance(module, nn.BatchNorm2d):
        return module.track_running_stats
    if isinstance(module, nn.Conv2d):
        groups, *channels = (
            cast("Any", module).trace_kwargs.get(name, 1) for name in ("groups", "in_channels", "out_channels")
        )
        one_group = not isinstance(groups, Mutable) and groups == 1
        return module.padding_mode == "zeros" and (one_group or all(_equal(groups, width) for width in channels))
    return True


def _choices_of(module: nn.Module) -> dict[str, Any]:
    """Return the arguments of a layer that are choices: none for a plain layer."""
    if not isinstance(module, ParametrizedModule):
        return {}
    return {name: value for name, value in module.trace_kwargs.items() if Resolved(value).varies}


def _equal(one: Any, other: Any) -> bool:
    """Return whether two choices, or expressions of choices, are the same; `==` would be an expression too."""
    return isinstance(one, Mutable) and isinstance(other, Mutable) and bool(one.equals(other))


def _taking_over(new: Any, layer: Any) -> Elastic:
    """Return an elastic layer with type, device, mode and settings of a layer, and weights if of the same size."""
    new.training = layer.training
    like = next(chain(layer.parameters(), layer.buffers()), None)
    if like is not None:
        new.to(device=like.device, dtype=like.dtype)
    if isinstance(new, (nn.BatchNorm2d, nn.LayerNorm)):
        new.eps = layer.eps  # may have been set after the layer was made
    if isinstance(new, nn.BatchNorm2d):
        new.momentum = layer.momentum
    weights = layer.state_dict()
    if {name: tensor.shape for name, tensor in weights.items()} == {
        name: tensor.shape for name, tensor in new.state_dict().items()
    }:
        new.load_state_dict(weights)
    return cast("Elastic", new)
