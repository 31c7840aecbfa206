"""What the benchmarks share: NNI's own supernet, images, and the figures at the end."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from nni.nas.strategy import RandomOneShot

from nni_nas_consistency.images.augmentation import CIFAR100_TEST
from nni_nas_consistency.images.datasets import Images, cifar100
from nni_nas_consistency.images.transforms import normalise
from nni_nas_consistency.spaces.chain import ChainSpace


def nni_supernet(space: ChainSpace) -> Any:
    """Return NNI's own supernet of a space: its Mixed modules."""
    return RandomOneShot().mutate_model(space)


def resample(supernet: Any, sample: Mapping[str, int]) -> None:
    """Let NNI's supernet run as a sample, as NNI's one-shot strategies do."""
    memo = dict(sample)
    for module in supernet.modules():
        if isinstance(module, BaseSuperNetModule):
            module.resample(memo)


def add_options(parser: argparse.ArgumentParser, *, repeats: int) -> None:
    """Add the options that all benchmarks have."""
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=repeats, help="of every variant; medians are compared")
    parser.add_argument("--json", type=Path, help="also write settings, machine and all times there")


def add_image_options(parser: argparse.ArgumentParser, images: int) -> None:
    """Add where images come from."""
    parser.add_argument("--images", type=int, default=images)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data-root", type=Path, help="folder that holds cifar-100-python")
    source.add_argument("--random-images", action="store_true", help="noise of CIFAR's shape; times are the same")


def read_images(options: argparse.Namespace, *, train: bool) -> Images:
    """Return the images that the options ask for, on the CPU."""
    if options.data_root:
        return cifar100(options.data_root, train=train).first(options.images)
    dice = torch.Generator().manual_seed(0)
    x = torch.randint(256, (options.images, 3, 32, 32), generator=dice, dtype=torch.uint8)
    return Images(x, torch.randint(100, (options.images,), generator=dice), 100)


def batch_of(images: Images, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all images as one normalised batch."""
    return normalise(images.x.to(device), CIFAR100_TEST), images.y.to(device)


def finish(options: argparse.Namespace, seconds: Mapping[str, list[float]], figures: Mapping[str, float]) -> None:
    """Print the medians and, last, the figures; write all to `--json`."""
    for name, times in seconds.items():
        print(f"{name}: median {median(times):.4g} s of {len(times)} ({min(times):.4g} to {max(times):.4g})")
    if options.json:
        settings = {key: str(value) for key, value in vars(options).items() if key != "json"}
        content = {
            "command": " ".join(["python", *sys.argv]),
            "date": time.strftime("%Y-%m-%d"),
            "machine": machine(options.device),
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "settings": settings,
            "seconds": {name: [round(value, 6) for value in times] for name, times in seconds.items()},
            "figures": dict(figures),
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    for name, value in figures.items():
        print(f"{name} {value:.4g}")


def machine(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{model}, {torch.get_num_threads()} threads"
