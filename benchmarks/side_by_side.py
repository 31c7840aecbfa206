"""What the benchmarks share: variants timed in turn, NNI's own supernet, and the last lines.

In every repeat the variants run one after the other, so that a machine that slows down slows all of them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import torch
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from nni.nas.strategy import RandomOneShot

import nni_nas_consistency.nni3.experiment  # noqa: F401 - repairs the `freeze` of NNI's modules
from nni_nas_consistency.images.augmentation import CIFAR100_TEST
from nni_nas_consistency.images.datasets import Images, cifar100
from nni_nas_consistency.images.transforms import normalise
from nni_nas_consistency.spaces.chain import ChainSpace


def interleaved(variants: Mapping[str, Callable[[], object]], repeats: int, device: str) -> dict[str, list[float]]:
    """Return the seconds that each variant took in each repeat; nothing is warmed up."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(repeats):
        for name, variant in variants.items():
            _synchronize(device)
            begun = time.perf_counter()
            variant()
            _synchronize(device)
            seconds[name].append(time.perf_counter() - begun)
            print(f"repeat {repeat + 1}/{repeats}: {name} {seconds[name][-1]:.4g} s", file=sys.stderr, flush=True)
    return seconds


def interleaved_processes(
    prepare: Callable[[str, argparse.Namespace], Callable[[], object]],
    names: Sequence[str],
    options: argparse.Namespace,
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Return the seconds of each variant in each repeat, and what it returned last, each in a process of its own.

    So no variant runs in memory that another has left to the allocator, which made up to 40 % of plain scoring.

    Args:
        prepare: Given a name and the options, warms a variant up and returns it; a function of a module.
        names: Of the variants.
        options: Of the command line.
    """
    spawn = multiprocessing.get_context("spawn")
    pipes = {name: spawn.Pipe() for name in names}
    workers = [spawn.Process(target=_work, args=(prepare, name, options, pipes[name][1])) for name in names]
    for worker in workers:
        worker.start()
    try:
        for name in names:
            assert pipes[name][0].recv() == "warm"
        results: dict[str, Any] = {}

        def turn(name: str) -> None:
            pipes[name][0].send("go")
            results[name] = pipes[name][0].recv()

        seconds = interleaved({name: partial(turn, name) for name in names}, options.repeats, options.device)
    finally:
        for worker in workers:
            worker.terminate()
    return seconds, results


def _work(prepare: Any, name: str, options: argparse.Namespace, pipe: Connection) -> None:
    variant = prepare(name, options)
    pipe.send("warm")
    while True:
        pipe.recv()
        result = variant()
        _synchronize(options.device)
        pipe.send(result)


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


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
