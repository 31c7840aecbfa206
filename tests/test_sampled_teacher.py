"""Rule `sampled-teacher`: sampled archs alone, of which the first teaches from an epoch on."""

import pytest
import torch
from helpers import keep_nni_in
from test_strategies_oneshot import evaluator_for, in_turn, pool, refusal, small_batch, tiny, trained

from nni_nas_consistency.cli import parse
from nni_nas_consistency.errors import InputError
from nni_nas_consistency.strategies.oneshot import SandwichStrategy
from nni_nas_consistency.strategies.steps import label_step, sandwich_step
from nni_nas_consistency.supernet.make import make_supernet
from nni_nas_consistency.systems import EMBEDDED_BENCHMARK


@pytest.mark.parametrize(("distill_from", "step"), [(0, sandwich_step), (1, label_step), (None, label_step)])
def test_a_step_moves_the_weights_by_the_mean_loss_of_the_sampled_archs(tmp_path, monkeypatch, distill_from, step):
    keep_nni_in(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    twin, archs, (x, y) = make_supernet(tiny()).double().train(), pool(3), small_batch()
    drawn = in_turn(archs).draw(3)
    step(twin, x.double(), y, drawn)
    expected = {name: p - 0.1 * (0 if p.grad is None else p.grad) for name, p in twin.named_parameters()}
    settings = {"rule": "sampled-teacher", "sampler": in_turn(archs), "distill_from": distill_from, "grad_clip": None}
    strategy = SandwichStrategy(3, **settings)
    trained(strategy, evaluator_for(x.double(), y, lr=0.1, precision="64-true"))
    for name, parameter in strategy.supernet.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=1e-10, atol=1e-12)


def test_one_arch_has_nobody_to_teach():
    assert refusal(1, rule="sampled-teacher") == "n is 1; rule 'sampled-teacher' needs at least 2 archs per step"
    SandwichStrategy(1, rule="sampled-teacher", distill_from=None)
    system = EMBEDDED_BENCHMARK
    with pytest.raises(InputError, match="n is 1; rule 'sampled-teacher' needs at least 2 archs per step"):
        parse.recipe_of(None, system, system.data, None, 1, ["rule=sampled-teacher"])
    recipe = parse.recipe_of(None, system, system.data, None, 1, ["rule=sampled-teacher", "distill_from=never"])
    assert recipe.phases[0].n == 1
