"""Write the best arch of a search beside the largest and random ones of about its cost, as a list to train alone."""

import argparse
import sys
from pathlib import Path

import torch

from nni_nas_consistency.archs.arch import Arch
from nni_nas_consistency.cli.parse import system_of_scores
from nni_nas_consistency.errors import InputError
from nni_nas_consistency.files.arch_lists import Entry, write_released
from nni_nas_consistency.files.doors import check_output
from nni_nas_consistency.files.score_files import read_scores
from nni_nas_consistency.jobs import costs_of
from nni_nas_consistency.search.constraints import smallest_arch
from nni_nas_consistency.strategies.sampling import UniformSampler
from nni_nas_consistency.systems import DATA_SETS

TRIES = 100_000
TOLERANCE = 0.05
"""How far from the MACs of the best arch those of a random one may be."""


def archs_beside(scores: Path, count: int, seed: int) -> dict[str, Arch]:
    """Return `best`, `largest`, `random1`, …: name → arch."""
    system = system_of_scores(None, scores)
    found = read_scores(scores, system.codec)
    shapes = {each.name: each.shape for each in DATA_SETS}
    if found.provenance.get("data") not in shapes:
        raise InputError(f"{scores}: does not say which images its archs are for; give what `search` wrote")
    shape = found.provenance.get("shape", shapes[found.provenance["data"]])  # that of a folder is written there
    scored, cost = found.scores, costs_of(system, tuple(shape))
    best = max(scored.values(), key=lambda each: each[1])[0]
    archs = {"best": best, "largest": smallest_arch(system.domain, lambda arch: -cost(arch).macs)}
    sampler = UniformSampler(system.domain, torch.Generator().manual_seed(seed))
    for _ in range(TRIES):
        (arch,) = sampler.draw(1)
        if arch not in archs.values() and abs(cost(arch).macs / cost(best).macs - 1) <= TOLERANCE:
            archs[f"random{len(archs) - 1}"] = arch
        if len(archs) == count + 2:
            break
    for name, arch in archs.items():
        print(f"{name}: {cost(arch).macs:,} MACs, {cost(arch).params:,} parameters, {arch.code}")
    return archs


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scores", type=Path, help="score file of a search")
    parser.add_argument("--count", type=int, default=3, help="random archs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="arch list to write")
    o = parser.parse_args()
    try:
        check_output(o.out, [o.scores])
        archs = archs_beside(o.scores, o.count, o.seed)
        write_released(o.out, {name: Entry(arch, 0) for name, arch in archs.items()})
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
