"""What several test files need."""

import os
from pathlib import Path

import pytest
from hypothesis import strategies as st

from nni_nas_consistency.arch import RESNET48, WidthForm


def shared_data(*parts: str) -> Path:
    """Return the path of shared data, which the repository does not ship; skip the test where it is absent."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("NNI_NAS_CONSISTENCY_SHARED_DATA", beside)).joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no {path}; set NNI_NAS_CONSISTENCY_SHARED_DATA to the folder of the shared data")
    return path


@st.composite
def digit_codes(draw: st.DrawFn) -> str:
    """Draw codes of the ResNet48 space, with and without the leading 1."""
    depths = [draw(st.sampled_from(allowed)) for allowed in RESNET48.depths]
    blocks = [allowed[-1] for allowed in RESNET48.depths]
    ratios = st.sampled_from("1234567")
    stages = [
        "".join(draw(st.lists(ratios, min_size=2 * depth, max_size=2 * depth))).ljust(2 * most, "0")
        for depth, most in zip(depths, blocks, strict=True)
    ]
    return draw(st.sampled_from(["", "1"])) + "".join(map(str, depths)) + draw(ratios) + "".join(stages)


def width_codes(form: WidthForm) -> st.SearchStrategy[str]:
    """Draw codes of a space of widths."""
    return st.tuples(*(st.sampled_from(layer) for layer in form.layers)).map(lambda widths: "-".join(map(str, widths)))
