"""What several test files need: small spaces with random weights, and ResNet-20 written out in plain torch."""

import random
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import torch
import torch.nn.functional as F
from nni.tools.nnictl.config_utils import Experiments
from torch import Tensor, nn

from nni_nas_consistency.archs.arch import Arch, Choice
from nni_nas_consistency.archs.domains import Domain
from nni_nas_consistency.spaces.resnet20 import ResNet20Space, ShortcutRule
from nni_nas_consistency.supernet.make import make_supernet

BOTH_SHORTCUTS = pytest.mark.parametrize("shortcut", ["projection", "standalone"])


def random_archs(domain: Domain, n: int, seed: int = 0) -> list[Arch]:
    """Return uniform archs, drawn without the samplers that are under test."""
    dice = random.Random(seed)
    archs = []
    for _ in range(n):
        picks: dict[str, Choice] = {}
        for variable in domain.variables:
            if variable.exists(picks):
                picks[variable.name] = dice.choice(variable.choices)
        archs.append(domain.arch(picks))
    return archs


def random_batch(images: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Return images [B, 1, 8, 8] and labels [B] for the tiny space; B is odd unless asked for."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(images, 1, 8, 8, generator=generator, dtype=dtype)
    return x, torch.randint(10, (images,), generator=generator)


def tiny_space(shortcut: ShortcutRule = "projection") -> ResNet20Space:
    """Return ResNet20 for 1×8×8 images with widths 1, 2, 3, …"""
    return ResNet20Space(10, 1, 8, shortcut, width_unit=1)


def tiny_supernet(
    dtype: torch.dtype = torch.float64, seed: int = 0, shortcut: ShortcutRule = "projection"
) -> ResNet20Space:
    """Return a supernet of the tiny space, with random batch norms and running statistics."""
    supernet = make_supernet(tiny_space(shortcut)).to(dtype)
    randomize(supernet, seed)
    return supernet


@torch.no_grad()
def randomize(network: nn.Module, seed: int) -> None:
    """Give every weight and every running statistic a random value, so that mixing two of them up shows.

    Kernels sum to zero and shifts are positive, so that hardly a ReLU is dead and logits depend on all layers, even
    at a width of 1.
    """
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.normal_(0, (2 / parameter[0].numel()) ** 0.5, generator=generator)
        if parameter.dim() == 4 and parameter.shape[-1] > 1:
            parameter -= parameter.mean((2, 3), keepdim=True)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            if module.affine:
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.uniform_(0.2, 1, generator=generator)
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.num_batches_tracked.fill_(7)


def subnet_slices(tensors: Mapping[str, Tensor], arch: Arch, shortcut: ShortcutRule) -> dict[str, Tensor]:
    """Return the slices of a ResNet20 supernet's state dict that an arch uses, written out by hand."""
    widths = list(arch.choices.values())
    slices = {}

    def take(name: str, width_in: int, width_out: int) -> None:
        slices[f"{name}conv.weight"] = tensors[f"{name}conv.weight"][:width_out, :width_in]
        for key in ("weight", "bias", "running_mean", "running_var"):
            slices[f"{name}bn.{key}"] = tensors[f"{name}bn.{key}"][:width_out]
        slices[f"{name}bn.num_batches_tracked"] = tensors[f"{name}bn.num_batches_tracked"]

    take("links.0.conv.", tensors["links.0.conv.conv.weight"].shape[1], widths[0])
    for block in range(9):
        width_in, width_mid, width_out = widths[2 * block : 2 * block + 3]
        take(f"links.{2 * block + 1}.conv1.", width_in, width_mid)
        take(f"links.{2 * block + 2}.conv2.", width_mid, width_out)
        if shortcut == "projection" or block in (0, 3, 6) or width_in != width_out:
            take(f"links.{2 * block + 2}.shortcut.project.", width_in, width_out)
    slices["links.19.linear.weight"] = tensors["links.19.linear.weight"][:, : widths[18]]
    slices["links.19.linear.bias"] = tensors["links.19.linear.bias"]
    return slices


def plain_logits(
    weights: Mapping[str, Tensor], images: Tensor, shortcut: ShortcutRule, *, training: bool = False
) -> Tensor:
    """Return the logits of ResNet-20 with these weights, written out; in training, running statistics move in place."""

    def conv_bn(name: str, x: Tensor, stride: int = 1) -> Tensor:
        kernel = weights[f"{name}conv.weight"]
        x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        mean, var, scale, shift = (
            weights[f"{name}bn.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, scale, shift, training, 0.1, 1e-5)

    x = F.relu(conv_bn("links.0.conv.", images))
    for block in range(9):
        stride = 2 if block in (3, 6) else 1
        y = F.relu(conv_bn(f"links.{2 * block + 1}.conv1.", x, stride))
        y = conv_bn(f"links.{2 * block + 2}.conv2.", y)
        project = shortcut == "projection" or block in (0, 3, 6) or x.shape[1] != y.shape[1]
        x = F.relu(y + (conv_bn(f"links.{2 * block + 2}.shortcut.project.", x, stride) if project else x))
    return F.linear(x.mean((2, 3)), weights["links.19.linear.weight"], weights["links.19.linear.bias"])


def keep_nni_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let NNI write its experiments and its list of them into a folder; it has looked up the home folder on import."""
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setattr(Experiments.__init__, "__defaults__", (str(folder / "nni-experiments"),))


def free_port() -> int:
    """Return a port of this machine that nothing listens on, nor on the two after it, which NNI's manager takes too.

    It is below the range from which the system gives ports to connections, so that none of these takes it meanwhile.
    """
    while True:
        port = secrets.randbelow(12_000) + 20_000
        with ExitStack() as probes:
            try:
                for each in range(port, port + 3):
                    probes.enter_context(socket.socket()).bind(("", each))
            except OSError:
                continue
            return port


def listening_addresses(port: int) -> set[str]:
    """Return the addresses that some process listens on at a port; `::` and `0.0.0.0` are all interfaces."""
    connections = psutil.net_connections("tcp")
    return {each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN and each.laddr.port == port}


def wait_for(what: Callable[[], bool], seconds: float) -> None:
    """Return when something has come true; fail if it has not after so many seconds."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.2)
