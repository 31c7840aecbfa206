"""NNI's hub space AutoFormer, for images of any size, with codes that say nothing of blocks that an arch lacks."""

from __future__ import annotations

from nni.nas.hub.pytorch import AutoFormer

from nni_nas_consistency.archs.autoformer import AutoFormerChoices, patch_size_of

DROP_PATH = 0.1
"""Probability that the last block is left out in training; it grows linearly from 0 at the first one."""


def autoformer_space(choices: AutoFormerChoices, shape: tuple[int, int, int]) -> AutoFormer:
    """Return `nni.nas.hub.pytorch.AutoFormer`: relative positions, global pooling, drop path .1, as published.

    Args:
        choices: The choices of the search space.
        shape: Classes, channels and side of the images; the side is a multiple of the patch's, `patch_size_of`.
    """
    classes, channels, side = shape
    space = AutoFormer(
        search_embed_dim=choices.embed_dim,
        search_mlp_ratio=choices.mlp_ratio,
        search_num_heads=choices.num_heads,
        search_depth=choices.depth,
        img_size=side,
        patch_size=patch_size_of(side),
        in_channels=channels,
        num_labels=classes,
        drop_path_rate=DROP_PATH,
    )
    space.codec = choices.codec
    return space
