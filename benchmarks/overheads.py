"""What a search pays for every arch besides its arithmetic: this project against NNI's own supernet, side by side.

    python benchmarks/overheads.py

activate: set the active subnet (NNI: `resample`). extract: the weights of one subnet (NNI: `freeze`). trial: a trial
in this process that evaluates nothing; NNI's freezes its own supernet. Milliseconds per arch, on one thread.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import nni
import torch
from nni.nas.evaluator import FunctionalEvaluator
from side_by_side import add_options, finish, nni_supernet, resample
from timing import interleaved

from nni_nas_consistency.archs.domains import RESNET20
from nni_nas_consistency.nni3.experiment import RetiariiExeConfig, RetiariiExperiment
from nni_nas_consistency.nni3.workarounds import repaired_freeze
from nni_nas_consistency.spaces.resnet20 import ResNet20Space
from nni_nas_consistency.strategies.multitrial import ReleasedArchs
from nni_nas_consistency.strategies.sampling import UniformSampler
from nni_nas_consistency.supernet.active import Run, set_run
from nni_nas_consistency.supernet.extract import sub_state_dict
from nni_nas_consistency.supernet.make import make_supernet


def main() -> None:
    options = read_options()
    torch.set_num_threads(1)
    supernet = make_supernet(ResNet20Space(100)).to(options.device)
    theirs = nni_supernet(ResNet20Space(100)).to(options.device)
    archs = UniformSampler(RESNET20, torch.Generator().manual_seed(0)).draw(options.archs)
    samples = [supernet.sample(arch) for arch in archs]

    ways: dict[str, Callable[[], object]] = {
        "activate": lambda: [set_run(supernet, Run((arch,))) for arch in archs],
        "activate_nni": lambda: [resample(theirs, sample) for sample in samples],
        "extract": lambda: [sub_state_dict(supernet, arch) for arch in archs],
        "extract_nni": lambda: [theirs.freeze(sample) for sample in samples],
        "trial": lambda: run_trials(supernet, archs),
        "trial_nni": lambda: run_trials(theirs, archs),
    }
    with repaired_freeze():
        for way in ways.values():
            way()
        seconds, _ = interleaved(ways, options.repeats, options.device)
    finish(options, seconds, {f"{name}_ms": 1e3 * median(times) / len(archs) for name, times in seconds.items()})


def run_trials(space, archs) -> None:
    strategy = ReleasedArchs({f"arch{index}": arch for index, arch in enumerate(archs, 1)})
    with tempfile.TemporaryDirectory() as folder:
        config = RetiariiExeConfig(
            execution_engine="sequential", model_format="raw", experiment_working_directory=Path(folder)
        )
        RetiariiExperiment(space, FunctionalEvaluator(do_nothing), strategy, config).run()


def do_nothing(model) -> None:
    nni.report_final_result(0.0)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archs", type=int, default=50)
    add_options(parser, repeats=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
