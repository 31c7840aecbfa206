"""A subnet to take away: its weights, a plain-torch file that loads them, ONNX, and a model card in both.

What is written was loaded and compared with the subnet before: the plain-torch file to the last bit, ONNX to 1e-4.
"""

from __future__ import annotations

import copy
import importlib.util
import io
import json
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save
from torch import Tensor, nn

from nni_nas_consistency.errors import InputError
from nni_nas_consistency.files.atomic import write_bytes_atomically, write_text_atomically
from nni_nas_consistency.files.strict_json import Json
from nni_nas_consistency.supernet.plain_source import plain_source
from nni_nas_consistency.supernet.statistics import batch_norms, estimated_statistics

SUBNET_FORMAT = "nni-nas-consistency subnet 1"
ONNX_OPSET = 17
ONNX_TOLERANCE = 1e-4
"""Largest difference of a logit between torch and onnxruntime."""


def with_statistics(network: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """Return a network with batch-norm statistics re-estimated over batches: a copy, or itself if it has none.

    Args:
        network: A frozen subnet, in evaluation mode.
        batches: Normalised images [B, C, H, W].
    """
    if not batch_norms(network):
        return network
    with estimated_statistics(network, network, batches):
        momenta = [norm.momentum for norm in batch_norms(network)]
        estimated = copy.deepcopy(network)
    for norm, before, during in zip(batch_norms(estimated), batch_norms(network), momenta, strict=True):
        assert during is None  # while statistics are estimated, they are plain means
        norm.momentum = before.momentum
    return estimated.eval()


def write_subnet(
    out: Path,
    module: Path,
    network: nn.Module,
    shape: tuple[int, int, int],
    *,
    normalisation: tuple[tuple[float, ...], tuple[float, ...]],
    card: Mapping[str, Json],
) -> None:
    """Write the weights of a subnet, with its model card, and a Python file that loads them with torch alone.

    Args:
        out: The safetensors file; an older one is replaced.
        module: The Python file, in the same folder.
        network: The frozen subnet, in evaluation mode, on the CPU.
        shape: Classes, channels and side of the images.
        normalisation: Mean and standard deviation of each channel, of pixels in [0, 1].
        card: What the model card says; see `card_text`.

    Raises:
        InputError: The network has something that cannot be written as plain torch.
        FileError: A file cannot be written.
    """
    about = f"Subnet {card.get('arch')} of space {card.get('space')}."
    source = plain_source(
        network, shape, about=about, module=module.stem, weights=out.name, normalisation=normalisation
    )
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in network.state_dict().items()}
    metadata = {"format": SUBNET_FORMAT, "model_card": card_text(card), "about": json.dumps(dict(card))}
    content = save(tensors, metadata)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / out.name).write_bytes(content)
        (Path(folder) / module.name).write_text(source, encoding="utf-8")
        _check_same(_loaded(Path(folder) / module.name), network, shape)
    write_text_atomically(module, source)
    write_bytes_atomically(out, content)


def _loaded(module: Path) -> nn.Module:
    """Return the network that a plain-torch file loads."""
    spec = importlib.util.spec_from_file_location(module.stem, module)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(made)
        return cast("nn.Module", made.load())
    except Exception as error:
        raise _unlike(f"{type(error).__name__}: {' '.join(str(error).split())}") from error


@torch.no_grad()
def _check_same(loaded: nn.Module, network: nn.Module, shape: tuple[int, int, int]) -> None:
    images = random_images(shape, 2, next(network.parameters()).dtype)
    if not torch.equal(loaded(images.clone()), network(images.clone())):
        raise _unlike("gives other logits")


def _unlike(what: str) -> InputError:
    return InputError(
        f"the network cannot be written as plain torch: what was written {what}; take the weights with sub_state_dict, "
        "and the network from the space"
    )


def random_images(shape: tuple[int, int, int], count: int, dtype: torch.dtype) -> Tensor:
    """Return normally distributed images [count, C, H, W], the same ones each time."""
    _, channels, side = shape
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(0)).to(dtype)


def card_text(card: Mapping[str, Json]) -> str:
    """Return a model card as Markdown: a heading, and a list of what it says."""
    lines = [f"# Subnet of space {card.get('space')}", ""]
    for name, value in card.items():
        text = value if isinstance(value, str) else json.dumps(value)
        lines.append(f"- **{name.replace('_', ' ')}**: {text}")
    return "\n".join(lines) + "\n"


@torch.no_grad()
def write_onnx(out: Path, network: nn.Module, shape: tuple[int, int, int], card: Mapping[str, Json]) -> float:
    """Write a subnet as ONNX, for any number of images, and return how far onnxruntime is from torch at most.

    Args:
        out: The file; an older one is replaced.
        network: The frozen subnet, in evaluation mode, on the CPU.
        shape: Classes, channels and side of the images.
        card: What the model card says, which becomes the metadata.

    Raises:
        RuntimeError: A logit differs by more than 1e-4; nothing is written.
        FileError: The file cannot be written.
    """
    import onnx
    import onnxruntime

    exported = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this exporter is the older one, which needs no further package
        torch.onnx.export(
            network,
            (random_images(shape, 2, torch.float32),),
            cast("Any", exported),
            dynamo=False,
            opset_version=ONNX_OPSET,
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}},
        )
    model = onnx.load_from_string(exported.getvalue())
    onnx.helper.set_model_props(model, {"model_card": card_text(card), "about": json.dumps(dict(card))})
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    largest = 0.0
    for count in (1, 3):
        images = random_images(shape, count, torch.float32)
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        largest = max(largest, (torch.from_numpy(logits) - network(images.clone())).abs().max().item())
    if not largest <= ONNX_TOLERANCE:
        raise RuntimeError(f"{out}: onnxruntime differs by {largest:.2g} from torch, by more than {ONNX_TOLERANCE}")
    write_bytes_atomically(out, content)
    return largest
