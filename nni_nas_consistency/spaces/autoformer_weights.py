"""Weights of AutoFormer under the names and in the layout of the official code (microsoft/Cream), for NNI's hub space.

There the rows of queries, keys and values are interleaved in one weight, q = W[0::3], k = W[1::3], v = W[2::3], but
follow each other in its bias, of which a subnet takes the first 3n. So a subnet is exact, also one that is cut out of a
supernet; a whole supernet is exact only where a subnet has all heads: with fewer, official keys and values would have
other biases.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from nni.nas.nn.pytorch import ModelSpace
from torch import Tensor, nn

from nni_nas_consistency.archs.arch import Arch, Choice
from nni_nas_consistency.archs.autoformer import HEAD_DIM, patch_size_of
from nni_nas_consistency.archs.domains import Domain
from nni_nas_consistency.errors import ArchError, CheckpointError

Layout: TypeAlias = Literal["official", "hub network", "hub supernet"]
Tensors: TypeAlias = "Mapping[str, Tensor]"

LAYOUTS: Mapping[str, Layout] = {
    "blocks.0.attn.qkv.weight": "official",
    "blocks.0.attn.q.weight": "hub network",
    "blocks.blocks.0.attn.q.weight": "hub supernet",
}
"""A tensor that only one layout has."""


@dataclass(frozen=True)
class Sizes:
    """What the shapes of weights say of the network.

    Args:
        shape: Classes, channels and side of the images.
        embed_dim: Width of the embedding.
        num_heads: Heads of each block.
        hidden: Hidden width of each block's MLP.
    """

    shape: tuple[int, int, int]
    embed_dim: int
    num_heads: tuple[int, ...]
    hidden: tuple[int, ...]

    def contain(self, arch: Arch) -> bool:
        """Return whether the weights contain those of an arch."""
        width, depth = int(str(arch.choices["embed_dim"])), int(str(arch.choices["depth"]))
        if self.embed_dim < width or len(self.num_heads) < depth:
            return False
        enough = zip(range(depth), self.num_heads, self.hidden, strict=False)
        return all(heads >= _heads(arch, block) and rows >= _hidden(arch, block) for block, heads, rows in enough)


def layout_of(tensors: Tensors) -> Layout:
    """Return the layout of weights.

    Raises:
        CheckpointError: They are not those of an AutoFormer.
    """
    for name, layout in LAYOUTS.items():
        if name in tensors:
            return layout
    first = ", ".join(sorted(tensors)[:3]) or "nothing"
    raise CheckpointError(f"holds no AutoFormer: there is none of {', '.join(LAYOUTS)}, but {first}")


def sizes_of(tensors: Tensors, layout: Layout) -> Sizes:
    """Return the sizes of a network.

    Raises:
        CheckpointError: A tensor is missing, or images have other patches than the space for their size has.
    """
    blocks = "blocks.blocks" if layout == "hub supernet" else "blocks"
    qkv, of_each = ("qkv", 3 * HEAD_DIM) if layout == "official" else ("q", HEAD_DIM)
    patches = _tensor(tensors, "patch_embed_super.proj.weight" if layout == "official" else "patch_embed.weight")
    positions = _tensor(tensors, "pos_embed" if layout == "official" else "pos_embed.pos_embed")
    depth = sum(1 for name in tensors if name.startswith(f"{blocks}.") and name.endswith(f".attn.{qkv}.weight"))
    width, channels, patch, _ = patches.shape
    side = patch * math.isqrt(positions.shape[1] - 1)
    if patch != patch_size_of(side):
        raise CheckpointError(
            f"has patches of {patch} pixels, where images of {side} pixels have {patch_size_of(side)}"
        )
    rows = [_tensor(tensors, f"{blocks}.{block}.attn.{qkv}.weight").shape[0] for block in range(depth)]
    hidden = [_tensor(tensors, f"{blocks}.{block}.fc1.weight").shape[0] for block in range(depth)]
    classes = _tensor(tensors, "head.weight").shape[0]
    heads = tuple(count // of_each for count in rows)
    return Sizes((classes, channels, side), width, heads, tuple(hidden))


def arch_of(sizes: Sizes, domain: Domain) -> Arch:
    """Return the arch whose network has these sizes.

    Raises:
        CheckpointError: The space has no such arch.
    """
    ratios = next(variable.choices for variable in domain.variables if variable.name == "mlp_ratio_0")
    choices: dict[str, Choice] = {"embed_dim": sizes.embed_dim, "depth": len(sizes.num_heads)}
    for block, (heads, hidden) in enumerate(zip(sizes.num_heads, sizes.hidden, strict=True)):
        fitting = (ratio for ratio in ratios if int(sizes.embed_dim * float(str(ratio))) == hidden)
        choices[f"num_head_{block}"] = heads
        choices[f"mlp_ratio_{block}"] = next(fitting, hidden / sizes.embed_dim)
    try:
        return domain.codec.arch(choices, "the network of the file")
    except ArchError as error:
        raise CheckpointError(f"is of a different space: {error}") from error


def load_exactly(network: ModelSpace | nn.Module, weights: Tensors) -> None:
    """Load weights into a network that has exactly these.

    Raises:
        CheckpointError: A name or a shape differs.
    """
    own = cast("nn.Module", network).state_dict()
    for name in sorted(own.keys() | weights.keys()):
        found = tuple(weights[name].shape) if name in weights else "missing"
        expected = tuple(own[name].shape) if name in own else "none of this name"
        if found != expected:
            raise CheckpointError(f"is of a different space: the tensor {name!r} is {found}, expected {expected}")
    cast("nn.Module", network).load_state_dict(weights, strict=True)


def network_weights(tensors: Tensors, arch: Arch) -> dict[str, Tensor]:
    """Return the weights of an arch by the names of NNI's frozen space, from those of the official code.

    Args:
        tensors: Official weights, of this arch or of any that contains it.
        arch: The arch.

    Raises:
        CheckpointError: A tensor is missing.
    """
    width = int(str(arch.choices["embed_dim"]))
    weights = {
        "patch_embed.weight": _tensor(tensors, "patch_embed_super.proj.weight")[:width],
        "patch_embed.bias": _tensor(tensors, "patch_embed_super.proj.bias")[:width],
        "cls_token.cls_token": _tensor(tensors, "cls_token")[..., :width],
        "pos_embed.pos_embed": _tensor(tensors, "pos_embed")[..., :width],
        "norm.weight": _tensor(tensors, "norm.weight")[:width],
        "norm.bias": _tensor(tensors, "norm.bias")[:width],
        "head.weight": _tensor(tensors, "head.weight")[:, :width],
        "head.bias": _tensor(tensors, "head.bias"),
    }
    for block in range(int(str(arch.choices["depth"]))):
        own = {name: _tensor(tensors, f"blocks.{block}.{name}") for name in OF_BLOCK}
        cut = _block_weights(own, width, HEAD_DIM * _heads(arch, block), _hidden(arch, block))
        weights |= {f"blocks.{block}.{name}": tensor for name, tensor in cut.items()}
    return weights


def supernet_weights(tensors: Tensors, domain: Domain) -> dict[str, Tensor]:
    """Return the weights of NNI's supernet, from those of an official one; exact where a subnet has all heads.

    Raises:
        CheckpointError: A tensor is missing.
    """
    assert domain.largest is not None
    weights = network_weights(tensors, domain.largest)
    return {
        name.replace("blocks.", "blocks.blocks.", 1) if name.startswith("blocks.") else name: tensor
        for name, tensor in weights.items()
    }


RELATIVE_POSITIONS = tuple(
    f"attn.rel_pos_embed_{of}.embeddings_table_{direction}" for of in ("k", "v") for direction in ("v", "h")
)
OF_BLOCK = (
    *("attn.qkv.weight", "attn.qkv.bias", "attn.proj.weight", "attn.proj.bias", *RELATIVE_POSITIONS),
    *(f"{norm}.{name}" for norm in ("attn_layer_norm", "ffn_layer_norm") for name in ("weight", "bias")),
    *("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"),
)
"""The official weights of a block."""


def _block_weights(own: Tensors, width: int, inner: int, hidden: int) -> dict[str, Tensor]:
    """Return the weights of a block, of which each has as many rows and columns as an arch has."""
    weight, bias = own["attn.qkv.weight"][: 3 * inner, :width], own["attn.qkv.bias"][: 3 * inner]
    cut = {name: own[name] for name in RELATIVE_POSITIONS}
    for index, name in enumerate("qkv"):
        cut[f"attn.{name}.weight"] = weight[index::3]
        cut[f"attn.{name}.bias"] = bias[index * inner : (index + 1) * inner]
    cut["attn.proj.weight"], cut["attn.proj.bias"] = (
        own["attn.proj.weight"][:width, :inner],
        own["attn.proj.bias"][:width],
    )
    cut["fc1.weight"], cut["fc1.bias"] = own["fc1.weight"][:hidden, :width], own["fc1.bias"][:hidden]
    cut["fc2.weight"], cut["fc2.bias"] = own["fc2.weight"][:width, :hidden], own["fc2.bias"][:width]
    for norm in ("attn_layer_norm", "ffn_layer_norm"):
        for name in ("weight", "bias"):
            cut[f"{norm}.{name}"] = own[f"{norm}.{name}"][:width]
    return cut


def _heads(arch: Arch, block: int) -> int:
    return int(str(arch.choices[f"num_head_{block}"]))


def _hidden(arch: Arch, block: int) -> int:
    return int(int(str(arch.choices["embed_dim"])) * float(str(arch.choices[f"mlp_ratio_{block}"])))


def _tensor(tensors: Tensors, name: str) -> Tensor:
    if name not in tensors:
        raise CheckpointError(f"has no tensor {name!r}, which an AutoFormer with relative positions has")
    return tensors[name]
