"""Batch norm, the addition after it and its ReLU in one pass over memory, on a CPU: a C++ kernel compiled at first use.

The kernel is for channels-last features in float32 or bfloat16. Where there is no C++ compiler, `supports` says no and
torch's kernels do the same more slowly (docs/decisions/0018-native-batch-norm.md).
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("batch_norm.cpp")
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fopenmp", "-std=c++17", "-shared", "-fPIC")
MOST_TERMS = 2


@dataclass(frozen=True)
class BatchNormed:
    """Features that are normalised with statistics of their own: weight · (x − mean) / √(var + eps) + bias.

    Args:
        x: [groups · images, C, H, W], channels-last.
        weight: [groups, C], float32.
        bias: [groups, C], float32.
        mean: Of each group of images, [groups, C], float32.
        var: The biased variance, likewise.
        eps: Added to the variance.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor
    mean: Tensor
    var: Tensor
    eps: float


Term: TypeAlias = "BatchNormed | Tensor"
"""What is added up: features after a batch norm, or features as they are."""


def supports(x: Tensor) -> bool:
    """Return whether the kernel can normalise these features, which compiles it if need be.

    Features that are channels-last and channels-first at once, such as those of one channel, stay with torch: what
    comes before and after them is channels-first, where results equal those of a plain network bit for bit.
    """
    suitable = x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) and x.dim() == 4
    in_rows = suitable and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return in_rows and library() is not None


def moments(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return the mean and the biased variance of every channel in every group of images, both float32 [groups, C]."""
    mean, var = (torch.empty(groups, x.shape[1], dtype=torch.float32) for _ in range(2))
    _library().batch_norm_moments(*_sizes(x, groups), x.data_ptr(), mean.data_ptr(), var.data_ptr())
    return mean, var


def sum_of_terms(terms: Sequence[Term], *, relu: bool) -> Tensor:
    """Return the sum of terms, or its ReLU; the gradient flows through the statistics too.

    Args:
        terms: Of the same shape and type, in any memory layout; the first is `BatchNormed`.
        relu: Whether to apply ReLU.
    """
    if len(terms) > MOST_TERMS:
        return _sum_of_many(terms, relu=relu)
    flat: list[Any] = []
    for term in terms:
        if isinstance(term, BatchNormed):
            flat += [term.x, term.weight, term.bias, term.mean, term.var]
        else:
            flat += [term.contiguous(memory_format=torch.channels_last), None, None, None, None]
    first = terms[0]
    assert isinstance(first, BatchNormed)
    total: Tensor = _SumOfTerms.apply(relu, first.eps, *flat)  # type: ignore[no-untyped-call]
    return total


def _sum_of_many(terms: Sequence[Term], *, relu: bool) -> Tensor:
    """Return the sum of more terms than the kernel takes at once."""
    total = sum_of_terms(terms[:MOST_TERMS], relu=False)
    for term in terms[MOST_TERMS:]:
        total = sum_of_terms([term, total], relu=False) if isinstance(term, BatchNormed) else total + term
    return total.relu() if relu else total


class _SumOfTerms(torch.autograd.Function):
    """`apply(relu, eps, x, weight, bias, mean, var, x2, …)` → y; weight to var are None for a term added as it is."""

    @staticmethod
    def forward(ctx: Any, relu: bool, eps: float, *flat: Tensor | None) -> Tensor:
        """Return the sum."""
        x, weight, bias, mean, var = _columns(flat)
        y = torch.empty_like(x[0], memory_format=torch.channels_last)
        pointers = [_pointers(each) for each in (x, weight, bias, mean, var)]
        _library().batch_norm_sum(*_sizes(y, len(weight[0])), len(x), *pointers, eps, relu, y.data_ptr())
        ctx.relu, ctx.eps = relu, eps
        ctx.save_for_backward(y if relu else None, *flat)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of features, weights and biases."""
        y, *flat = ctx.saved_tensors
        x, weight, _, mean, var = _columns(flat)
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        of_x = [torch.empty_like(each) for each in x]
        of_weight = [None if each is None else torch.empty_like(each) for each in weight]
        of_bias = torch.empty_like(mean[0])
        pointers = [_pointers(each) for each in (x, weight, mean, var)]
        written = _pointers(of_x), _pointers(of_weight), of_bias.data_ptr()
        of_y = None if y is None else y.data_ptr(), gradient.data_ptr()
        _library().batch_norm_gradients(
            *_sizes(gradient, len(weight[0])), len(x), *pointers, ctx.eps, ctx.relu, *of_y, *written
        )
        by_term = [
            (of_x[term], of_weight[term], None if weight[term] is None else of_bias, None, None)
            for term in range(len(x))
        ]
        return (None, None, *(each for term in by_term for each in term))


def _columns(flat: Sequence[Tensor | None]) -> tuple[list[Any], ...]:
    """Return the features of all terms, their weights, biases, means and variances."""
    return tuple(list(flat[index::5]) for index in range(5))


def _sizes(x: Tensor, groups: int) -> tuple[int, int, int, int, int]:
    b, c, h, w = x.shape
    return int(x.dtype == torch.bfloat16), torch.get_num_threads(), groups, b * h * w // groups, c


def _pointers(tensors: Sequence[Tensor | None]) -> Any:
    addresses = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
    return (ctypes.c_void_p * len(addresses))(*addresses)


def _library() -> ctypes.CDLL:
    compiled = library()
    assert compiled is not None
    return compiled


@lru_cache
def library() -> ctypes.CDLL | None:
    """Return the compiled kernel, or None where it cannot be compiled; the file is kept for the next process."""
    if os.name != "posix":
        return None
    for folder in (_cache_folder(), Path(tempfile.gettempdir()) / f"nni-nas-consistency-{os.getuid()}"):
        try:
            return _declared(ctypes.CDLL(str(_compiled_into(folder))))
        except (OSError, subprocess.SubprocessError):
            continue
    return None


def _compiled_into(folder: Path) -> Path:
    """Return the compiled file in a folder that belongs to this user alone."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    owner = folder.stat()
    if owner.st_uid != os.getuid() or owner.st_mode & 0o022:
        raise PermissionError(f"{folder}: others can write here")
    compiler = os.environ.get("CXX", "g++")
    built = hashlib.sha256("\0".join([SOURCE.read_text(), compiler, *FLAGS, _processor()]).encode()).hexdigest()[:16]
    path = folder / f"batch_norm-{built}.so"
    if not path.is_file():
        temporary = folder / f".{path.name}.{os.getpid()}"
        try:
            command = [compiler, *FLAGS, "-o", str(temporary), str(SOURCE)]
            subprocess.run(command, check=True, capture_output=True, timeout=120)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return path


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nni-nas-consistency"


def _processor() -> str:
    """Return what the machine code depends on: -march=native compiles for this processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.platform() + platform.processor()
    return next((line for line in lines if line.startswith("flags")), platform.processor())


def _declared(compiled: ctypes.CDLL) -> ctypes.CDLL:
    """Return the library with the types of its arguments."""
    pointer, number, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
    sizes = [number, number, size, size, size]
    compiled.batch_norm_moments.argtypes = [*sizes, pointer, pointer, pointer]
    compiled.batch_norm_sum.argtypes = [*sizes, number, *[pointer] * 5, ctypes.c_float, number, pointer]
    written = [pointer] * 3
    compiled.batch_norm_gradients.argtypes = [
        *sizes, number, *[pointer] * 4, ctypes.c_float, number, pointer, pointer, *written,
    ]  # fmt: skip
    for function in (compiled.batch_norm_moments, compiled.batch_norm_sum, compiled.batch_norm_gradients):
        function.restype = None
    return compiled
