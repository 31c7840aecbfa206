"""Training on several processes of this machine, which Lightning's DDP starts: which one this is, and how they end.

Lightning starts the same command again for every process but the first. What is written, printed and locked is the work
of the first one, of rank 0. Neither torch nor Lightning is imported here until the processes end.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import Popen
from typing import TYPE_CHECKING

from nni_nas_consistency.errors import Diverged, InputError

if TYPE_CHECKING:
    import pytorch_lightning as pl

OURS = "NNI_NAS_CONSISTENCY_DEVICES"
"""Environment variable by which a process knows that a training has started it."""

PR_SET_PDEATHSIG = 1
"""Linux's prctl: the signal that a process gets when its parent dies."""

LIGHTNINGS = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables that Lightning sets, and leaves behind."""


def rank_of(devices: int) -> int:
    """Return which process of a training this is, from 0.

    Args:
        devices: How many processes the training has.

    Raises:
        InputError: Something else than this training has started processes, such as torchrun.
    """
    if devices == 1 or "LOCAL_RANK" not in os.environ:
        return 0
    if os.environ.get(OURS) != str(devices):
        raise InputError(
            f"LOCAL_RANK is {os.environ['LOCAL_RANK']!r} already: a training on {devices} devices starts its processes "
            "itself; start it once, without torchrun or srun"
        )
    return int(os.environ["LOCAL_RANK"])


@contextmanager
def process_group(devices: int) -> Iterator[None]:
    """Let trainers inside the block start their processes; leave neither variables nor a process group behind.

    A process that is started ignores Ctrl-C and SIGTERM, since the first one heeds them, and dies with the first one.

    Args:
        devices: How many processes.

    Raises:
        InputError: Something else has started processes.
    """
    rank = rank_of(devices)
    if devices == 1:
        yield
        return
    before = {name: os.environ.get(name) for name in (OURS, *LIGHTNINGS)}
    os.environ[OURS] = str(devices)
    if rank:
        _depend_on_parent()
    try:
        yield
    except Diverged:
        if rank:
            raise SystemExit(1) from None  # every process knows, and the first one says so
        raise
    finally:
        _leave_group()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _depend_on_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:  # it died before
            os._exit(1)


def _leave_group() -> None:
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextmanager
def no_process_left(trainer: pl.Trainer) -> Iterator[None]:
    """Kill the processes that a trainer has started if the block ends by an error, and wait for them.

    Lightning leaves that to a thread, which looks every five seconds for one that failed, and then kills this process
    with SIGKILL, whatever it is doing by then.
    """
    try:
        yield
    except BaseException:
        processes: list[Popen[bytes]] = getattr(trainer.strategy.launcher, "procs", [])
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
            process.returncode = 0  # what that thread looks at
        raise
