"""An experiment on NNI's local service, in a process of its own, that somebody kills: `survivor.py FOLDER PORT ID`.

Its trials name themselves in files, and the one of the arch that FOLDER/trouble names raises, hangs, or asks for a
device that is not there, as the file says, until that file is gone.
"""

import sys
from pathlib import Path

from nni.nas.evaluator import FunctionalEvaluator


def report(model, folder):
    """Be a trial: note that this arch runs, and report the sum of its widths as its score."""
    import os
    import time

    import nni

    from nni_nas_consistency import jobs

    code = model.frozen_arch.code
    begun = folder / "begun"
    begun.mkdir(exist_ok=True)
    (begun / f"{code}.{os.getpid()}").touch()
    trouble = folder / "trouble"
    arch, _, kind = trouble.read_text().partition(" ") if trouble.exists() else ("", "", "")
    if arch == code:
        trouble.unlink()
        if kind == "hangs":
            time.sleep(600)
        if kind == "has no device":
            jobs.device_of("cuda")
        raise ZeroDivisionError
    if (folder / f"{code}.waits").exists():
        time.sleep(600)
    nni.report_final_result({"default": float(sum(map(int, code.split("-")))), "arch": code})


def archs_of(space, count):
    """Return the first archs of a list of distinct sums of widths."""
    smallest = space.domain.smallest.code.split("-")
    archs = {}
    for index in range(count):
        widths = [str(2 if place < 2 * index else 1) for place in range(len(smallest))]
        archs[f"arch{index}"] = space.codec.parse("-".join(widths))
    return archs


def experiment(folder, id, *, archs, trial_concurrency=1, **settings):
    """Return the experiment and its strategy."""
    from nni_nas_consistency import ReleasedArchs, ResNet20Space, RetiariiExeConfig, RetiariiExperiment

    space = ResNet20Space(10, 1, 8, width_unit=1)
    strategy = ReleasedArchs(archs_of(space, archs))
    config = RetiariiExeConfig("local", trial_concurrency=trial_concurrency, **settings)
    config.experiment_working_directory = folder / "experiments"
    evaluator = FunctionalEvaluator(report, folder=folder)
    return RetiariiExperiment(space, evaluator, strategy, config, id=id), strategy


if __name__ == "__main__":
    folder, port, id, archs = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    run, strategy = experiment(folder, id, archs=archs)
    try:
        finished = run.run_or_resume(port)
    finally:
        run.stop()
    (folder / "scores").write_text(repr((finished, strategy.scores(), run.scores())))
