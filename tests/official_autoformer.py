"""A network with the names, the layout and the slicing of AutoFormer's official weights, in plain functions.

Queries, keys and values come from one linear layer, whose weight has their rows interleaved and whose bias has them one
after the other; a subnet is cut out of a supernet as the official code does it.
"""

import torch
import torch.nn.functional as F

HEAD = 64


def official_weights(width, heads, hidden, *, classes=10, channels=1, patch=2, grid=4, seed=0):
    """Return random weights of a network: heads and hidden widths one for each block."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64) * 0.3

    weights = {
        "cls_token": drawn(1, 1, width),
        "pos_embed": drawn(1, grid * grid + 1, width),
        "patch_embed_super.proj.weight": drawn(width, channels, patch, patch),
        "patch_embed_super.proj.bias": drawn(width),
        "norm.weight": drawn(width),
        "norm.bias": drawn(width),
        "head.weight": drawn(classes, width),
        "head.bias": drawn(classes),
    }
    for block, (n, rows) in enumerate(zip(heads, hidden, strict=True)):
        of_block = {
            "attn.qkv.weight": drawn(3 * HEAD * n, width),
            "attn.qkv.bias": drawn(3 * HEAD * n),
            "attn.proj.weight": drawn(width, HEAD * n),
            "attn.proj.bias": drawn(width),
            "fc1.weight": drawn(rows, width),
            "fc1.bias": drawn(rows),
            "fc2.weight": drawn(width, rows),
            "fc2.bias": drawn(width),
        }
        for of in "kv":
            for direction in "vh":
                of_block[f"attn.rel_pos_embed_{of}.embeddings_table_{direction}"] = drawn(2 * grid + 2, HEAD)
        for norm in ("attn_layer_norm", "ffn_layer_norm"):
            of_block |= {f"{norm}.weight": drawn(width), f"{norm}.bias": drawn(width)}
        weights |= {f"blocks.{block}.{name}": tensor for name, tensor in of_block.items()}
    return weights


def official_logits(weights, images, width, heads, hidden):
    """Return the logits of the subnet of this width, with these heads and hidden widths, cut out of the weights."""
    kernel = weights["patch_embed_super.proj.weight"][:width]
    patches = F.conv2d(images, kernel, weights["patch_embed_super.proj.bias"][:width], stride=kernel.shape[-1])
    grid = patches.shape[-1]
    x = patches.flatten(2).transpose(1, 2)
    x = torch.cat([weights["cls_token"][..., :width].expand(len(x), -1, -1), x], 1)
    x = x + weights["pos_embed"][..., :width]
    for block, (n, rows) in enumerate(zip(heads, hidden, strict=True)):
        own = {
            name.removeprefix(f"blocks.{block}."): tensor
            for name, tensor in weights.items()
            if name.startswith(f"blocks.{block}.")
        }
        x = x + attention(own, norm(own, "attn_layer_norm", x, width), width, n, grid)
        y = norm(own, "ffn_layer_norm", x, width)
        y = F.gelu(F.linear(y, own["fc1.weight"][:rows, :width], own["fc1.bias"][:rows]))
        x = x + F.linear(y, own["fc2.weight"][:width, :rows], own["fc2.bias"][:width])
    x = F.layer_norm(x, (width,), weights["norm.weight"][:width], weights["norm.bias"][:width])
    return F.linear(x[:, 1:].mean(1), weights["head.weight"][:, :width], weights["head.bias"])


def norm(own, name, x, width):
    return F.layer_norm(x, (width,), own[f"{name}.weight"][:width], own[f"{name}.bias"][:width])


def attention(own, x, width, heads, grid):
    """Return multi-head attention with relative positions, cut as the official code cuts it."""
    inner = HEAD * heads
    sampled = own["attn.qkv.weight"][:, :width]
    sampled = torch.cat([sampled[first : 3 * inner : 3] for first in range(3)])
    images, tokens, _ = x.shape
    qkv = F.linear(x, sampled, own["attn.qkv.bias"][: 3 * inner])
    q, k, v = qkv.reshape(images, tokens, 3, heads, HEAD).permute(2, 0, 3, 1, 4)
    by_key, by_value = (positions(own, f"attn.rel_pos_embed_{of}", grid) for of in "kv")
    scores = (q @ k.transpose(-2, -1) + torch.einsum("bhqd,qkd->bhqk", q, by_key)) * HEAD**-0.5
    share = scores.softmax(-1)
    out = share @ v + torch.einsum("bhqk,qkd->bhqd", share, by_value)
    out = out.transpose(1, 2).reshape(images, tokens, inner)
    return F.linear(out, own["attn.proj.weight"][:width, :inner], own["attn.proj.bias"][:width])


def positions(own, name, grid):
    """Return the embedding of each pair of tokens, [T, T, 64]: row 0 of the tables is that of the class token."""
    tokens = grid * grid + 1
    embedded = torch.zeros(tokens, tokens, HEAD, dtype=torch.float64)
    for query in range(tokens):
        for key in range(tokens):
            rows = columns = 0
            if query and key:
                rows = (key - 1) // grid - (query - 1) // grid + grid + 1
                columns = (key - 1) % grid - (query - 1) % grid + grid + 1
            embedded[query, key] = own[f"{name}.embeddings_table_v"][rows] + own[f"{name}.embeddings_table_h"][columns]
    return embedded
