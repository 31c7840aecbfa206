"""NNI's search-space JSON of a domain, for its hyper-parameter tuners; `Codec.arch` reads the sample of a trial."""

from __future__ import annotations

from typing import TypeAlias

from nni_nas_consistency.archs.arch import Choice
from nni_nas_consistency.archs.codecs import WidthCodec
from nni_nas_consistency.archs.domains import Domain

SearchSpace: TypeAlias = "dict[str, dict[str, str | list[Choice]]]"


def nni_search_space(domain: Domain) -> SearchSpace:
    """Return NNI's search space of a domain: one choice for each independent variable that a network reads.

    NNI's format knows no conditions. Variables that an arch lacks, such as ratios of absent blocks, are drawn and
    ignored, so that several samples can be one arch; constraints of the space are not in it.

    Args:
        domain: The archs of a space, such as `domain_of(space)`.
    """
    unused = domain.codec.unused if isinstance(domain.codec, WidthCodec) else frozenset()
    return {
        variable.name: {"_type": "choice", "_value": list(variable.choices)}
        for variable in domain.variables
        if variable.name not in unused
    }
