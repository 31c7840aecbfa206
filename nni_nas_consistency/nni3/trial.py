"""What NNI trials run: scoring one arch with the weights of a trained supernet; reports from a training inside one."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any

import nni
from nni import trial as nni_trial
from nni.runtime.env_vars import trial_env_vars
from nni.runtime.trial_command_channel import get_default_trial_command_channel

from nni_nas_consistency.scoring.plain import score_network
from nni_nas_consistency.scoring.scoring import Score, Scoring
from nni_nas_consistency.spaces.chain import ChainSpace
from nni_nas_consistency.supernet.checkpoint import supernet_of
from nni_nas_consistency.supernet.extract import sub_state_dict


def score_subnet(model: ChainSpace, *, scoring: Callable[[], Scoring], checkpoint: str | None = None) -> float:
    """Score the subnet of a trial with the weights of a trained supernet; for NNI's `FunctionalEvaluator`.

    Reports the mean score so far as an intermediate result after every batch, and the score as the final result, with
    the code of the arch that it belongs to; higher is better. For example
    `FunctionalEvaluator(score_subnet, scoring=lambda: image_scoring(digits(train=False), DIGITS_TEST), checkpoint=…)`.

    Args:
        model: The frozen subnet that NNI passes in.
        scoring: Returns how to score; called once per process. Trials in other processes get it from NNI, which sends
            a function of a module by its name, to be imported from the same folder in the same environment, and
            pickles any other function or `functools.partial`, to at most 4,096 bytes. So it must load the images
            itself, like the lambda above, and not hold them.
        checkpoint: Path of a supernet checkpoint, loaded once per process, and again when the file has changed. None
            if the weights are in `model` already, because it was frozen from a supernet of this process.

    Returns:
        The score.

    Raises:
        CheckpointError: The checkpoint does not exist, is damaged, or was trained for a different space.
    """
    if checkpoint is not None:
        assert model.frozen_arch is not None
        path = Path(checkpoint)
        modified = path.stat().st_mtime_ns if path.exists() else 0
        supernet = _supernet_of(type(model), tuple(model.args.items()), path, modified)  # type: ignore[arg-type]
        model.load_state_dict(sub_state_dict(supernet, model.frozen_arch), strict=True)
    how = _scoring_of(scoring)

    def report(so_far: Score) -> None:
        nni.report_intermediate_result(so_far.of(how.metric))

    score = score_network(model, how, report=report).of(how.metric)
    code = None if model.frozen_arch is None else model.frozen_arch.code
    nni.report_final_result(score if code is None else {"default": score, "arch": code})
    return score


def trial_reporter() -> Callable[[float], None]:
    """Return what reports intermediate results of the trial that this process is, to call from a training inside it.

    `nni.report_intermediate_result` would give them to the experiment that trains. Call it after
    `nni.get_next_parameter`, before the training.
    """
    channel, parameters = get_default_trial_command_channel(), nni_trial._params
    sequence = count(nni_trial._intermediate_seq)

    def report(value: float) -> None:
        channel.send_metric(
            "PERIODICAL",
            None if parameters is None else parameters["parameter_id"],
            trial_env_vars.NNI_TRIAL_JOB_ID,
            next(sequence),
            value,
        )

    return report


@lru_cache(maxsize=1)
def _supernet_of(
    space: Callable[..., ChainSpace], arguments: tuple[tuple[str, Any], ...], checkpoint: Path, modified: int
) -> ChainSpace:
    """Return the supernet of a checkpoint; `modified` is part of the cache key, so that a new file is loaded."""
    return supernet_of(checkpoint, space(**dict(arguments)))[0]


@lru_cache(maxsize=1)
def _scoring_of(scoring: Callable[[], Scoring]) -> Scoring:
    return scoring()
