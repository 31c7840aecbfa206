"""Codecs and codes for tests of values and files; imports neither torch nor NNI."""

import os
from itertools import product
from pathlib import Path

import pytest
from hypothesis import strategies as st

from nni_nas_consistency.archs.codecs import (
    DIGITS_CODEC,
    RESNET20_CODEC,
    RESNET48_CODEC,
    Codec,
    DigitCodec,
    SampleCodec,
    WidthCodec,
)

SAMPLE_CODEC = SampleCodec(
    "toy",
    {
        'layer "1"': ('conv{"kernel": 3}', "a\\b, c", "pool'ß"),
        "depth": (1, 2, 3),
        "ratio": (0.25, 1e-7, 3.0),
        "inputs": (("a",), ("a", "b"), (0, 2.5)),
    },
)


def shared_data(*parts: str) -> Path:
    """Return the path of shared data, which the repository does not ship; skip the test where it is absent."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("NNI_NAS_CONSISTENCY_SHARED_DATA", beside)).joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no {path}; set NNI_NAS_CONSISTENCY_SHARED_DATA to the folder of the shared data")
    return path


def width_codes(codec: WidthCodec) -> st.SearchStrategy[str]:
    """Draw codes of a space of widths."""
    return st.tuples(*(st.sampled_from(layer) for layer in codec.widths)).map(lambda widths: "-".join(map(str, widths)))


@st.composite
def digit_codes(draw: st.DrawFn, codec: DigitCodec = RESNET48_CODEC) -> str:
    """Draw codes of the ResNet48 space, with and without the leading 1."""
    ratios = st.sampled_from("1234567")
    depths = [draw(st.sampled_from(allowed)) for allowed in codec.depths]
    code = draw(st.sampled_from(["", "1"])) + "".join(map(str, depths)) + draw(ratios)
    for depth, allowed in zip(depths, codec.depths, strict=True):
        digits = draw(st.lists(ratios, min_size=2 * depth, max_size=2 * depth))
        code += "".join(digits).ljust(2 * max(allowed), "0")
    return code


def sample_codes(codec: SampleCodec = SAMPLE_CODEC) -> st.SearchStrategy[str]:
    """Draw canonical codes of a space of NNI samples."""
    archs = [codec.arch(dict(zip(codec.allowed, choices, strict=True))) for choices in product(*codec.allowed.values())]
    return st.sampled_from([arch.code for arch in archs])


EVERY_CODEC: list[tuple[Codec, st.SearchStrategy[str]]] = [
    (RESNET20_CODEC, width_codes(RESNET20_CODEC)),
    (DIGITS_CODEC, width_codes(DIGITS_CODEC)),
    (RESNET48_CODEC, digit_codes()),
    (SAMPLE_CODEC, sample_codes()),
]
"""A codec and a strategy for its codes; tests that hold for every space run over this list."""
