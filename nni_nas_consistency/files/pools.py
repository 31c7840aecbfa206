"""Pool files: an arch list in the released form, whose entries may have a weight: `{"arch1": {…, "weight": 2}, …}`."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from nni_nas_consistency.archs.pool import Pool
from nni_nas_consistency.files.arch_lists import entries_of_list
from nni_nas_consistency.files.atomic import FilePath
from nni_nas_consistency.files.strict_json import file_errors, finite, object_of, read_object, shown

if TYPE_CHECKING:
    from nni_nas_consistency.archs.domains import Domain


def read_pool(path: FilePath, domain: Domain) -> Pool:
    """Return the pool of a file; its archs are those of a supernet that is trained on the domain.

    Args:
        path: An arch list; where some archs have a weight, those without one have weight 1.
        domain: What archs may be drawn.

    Raises:
        FileError: The file cannot be read or is no arch list; an arch is not allowed or appears twice; a weight is no
            number of at least 0, or all are 0.
    """
    with file_errors(path):
        document = {name: _released(value, name) for name, value in read_object(path).items()}
        entries = entries_of_list({name: entry for name, (entry, _) in document.items()}, domain.codec)
        for name, entry in entries.items():
            domain.check(entry.arch, name)
        archs = tuple(entry.arch for entry in entries.values())
        if all(weight is None for _, weight in document.values()):
            return Pool(archs)
        return Pool(archs, tuple(_weight(weight, name) for name, (_, weight) in document.items()))


def _released(value: object, name: str) -> tuple[object, object]:
    """Return a decoded entry without its weight, as an arch list has it, and the weight; None if it has none."""
    if not isinstance(value, tuple):
        return value, None
    fields = object_of(value, name)
    if fields.get("weight", 1) is None:
        raise ValueError(f"weight of {name} is null; expected a number of at least 0, or no weight")
    return tuple(pair for pair in value if pair[0] != "weight"), fields.get("weight")


def _weight(value: object, name: str) -> float:
    """Return the weight of an arch; 1 if it has none."""
    if value is None:
        return 1.0
    weight = finite(value, f"weight of {name}")
    if weight < 0:
        raise ValueError(f"weight of {name} is {shown(value)}; expected a number of at least 0")
    return float(weight)


def pool_sha256(pool: Pool) -> str:
    """Return what tells one pool from another: the SHA-256 of its codes and weights, in order."""
    content = [[arch.code for arch in pool.archs], pool.weights]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
