"""Variants timed in turn: in every repeat one after the other, so that a machine that slows down slows all of them.

Imports no torch, so that a process of a variant loads what the variant needs and nothing else.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

Prepare: TypeAlias = "Callable[[str, argparse.Namespace], Callable[[], object]]"
"""Given the name of a variant and the options, warms it up and returns it."""


def interleaved(
    variants: Mapping[str, Callable[[], object]], repeats: int, device: str
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Return the seconds of each variant in each repeat, and what it returned last; nothing is warmed up."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    results: dict[str, Any] = {}
    for repeat in range(repeats):
        for name, variant in variants.items():
            _synchronize(device)
            begun = time.perf_counter()
            results[name] = variant()
            _synchronize(device)
            seconds[name].append(time.perf_counter() - begun)
            print(f"repeat {repeat + 1}/{repeats}: {name} {seconds[name][-1]:.4g} s", file=sys.stderr, flush=True)
    return seconds, results


def interleaved_processes(
    prepare: Prepare, names: Sequence[str], options: argparse.Namespace
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """As `interleaved`, with each variant in a process of its own.

    So no variant runs in memory that another has left to the allocator, which made up to 40 % of plain scoring.

    Args:
        prepare: Prepares a variant in its process; a function of a module.
        names: Of the variants.
        options: Of the command line; `repeats` and `device` are read here.
    """
    spawn = multiprocessing.get_context("spawn")
    pipes = {name: spawn.Pipe() for name in names}
    workers = [spawn.Process(target=_work, args=(prepare, name, options, pipes[name][1])) for name in names]
    for worker in workers:
        worker.start()

    def turn(name: str) -> object:
        pipes[name][0].send("go")
        return pipes[name][0].recv()

    try:
        for name in names:
            assert pipes[name][0].recv() == "warm"
        return interleaved({name: partial(turn, name) for name in names}, options.repeats, options.device)
    finally:
        for worker in workers:
            worker.terminate()


def _work(prepare: Prepare, name: str, options: argparse.Namespace, pipe: Connection) -> None:
    variant = prepare(name, options)
    pipe.send("warm")
    while True:
        pipe.recv()
        result = variant()
        _synchronize(options.device)
        pipe.send(result)


def _synchronize(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
