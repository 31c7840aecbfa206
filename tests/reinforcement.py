"""NNI's PolicyBasedRL on every space of test_every_strategy.py; prints as JSON what it did, in its last line."""

import json
import logging

import nni
import torch
from nni.nas.evaluator import FunctionalEvaluator
from nni.nas.strategy import PolicyBasedRL
from test_every_strategy import SPACES, in_this_process

from nni_nas_consistency import RetiariiExperiment

TRIALS = 4


def explored(space):
    """Return what the strategy did on a space: every second result is better, so that there is something to learn."""
    seen = []

    def evaluate(model):
        seen.append(model)
        nni.report_final_result(float(len(seen) % 2))

    torch.manual_seed(0)
    strategy = PolicyBasedRL(samples_per_update=2)
    experiment = RetiariiExperiment(space, FunctionalEvaluator(evaluate), strategy, in_this_process(TRIALS))
    weights = []

    def begin(model_space, engine, before=strategy._initialize):
        initialized = before(model_space, engine)
        weights.append([weight.clone() for weight in strategy._policy.parameters()])
        return initialized

    strategy._initialize = begin
    assert experiment.run()
    (best,) = experiment.export_top_models(formatter="dict")
    learned = any(not torch.equal(a, b) for a, b in zip(weights[0], strategy._policy.parameters(), strict=True))
    return {"trials": len(seen), "labels": set(best) == set(space.simplify()), "the policy has learned": learned}


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    print(json.dumps({name: explored(make()) for name, make in SPACES.items()}))
