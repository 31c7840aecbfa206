"""Experiments with the real NNI, and a test of every workaround: one half fails once NNI no longer needs it."""

import json
import logging
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import nni
import nni_node
import pytest
import torch
from helpers import (
    BOTH_SHORTCUTS,
    free_port,
    keep_nni_in,
    listening_addresses,
    random_archs,
    random_batch,
    tiny_space,
    tiny_supernet,
)
from nni.nas.evaluator import FunctionalEvaluator
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.experiment import NasExperiment, NasExperimentConfig
from nni.nas.nn.pytorch import ModelSpace, MutableConv2d, MutableLinear
from nni.nas.oneshot.pytorch.strategy import OneShotStrategy
from nni.nas.oneshot.pytorch.supermodule.operation import MixedConv2d, MixedLinear
from nni.nas.space import RawFormatModelSpace
from nni.nas.strategy import Random, RandomOneShot
from nni.tools.nnictl.config_utils import Experiments

from nni_nas_consistency import evaluators
from nni_nas_consistency.files.score_files import read_scores
from nni_nas_consistency.images.augmentation import DIGITS_TEST, DIGITS_TRAIN
from nni_nas_consistency.images.datasets import digits
from nni_nas_consistency.nni3.experiment import (
    RetiariiExeConfig,
    RetiariiExperiment,
    evolve,
    localhost_only,
    train_supernet,
)
from nni_nas_consistency.scoring.plain import Scoring, score_archs
from nni_nas_consistency.strategies.multitrial import ReleasedArchs
from nni_nas_consistency.strategies.oneshot import SandwichStrategy
from nni_nas_consistency.supernet.checkpoint import save_supernet
from nni_nas_consistency.training.lightning import TrainingRun, image_scoring, score_subnet, training_evaluator
from nni_nas_consistency.training.recipes import DIGITS, Optimization


@pytest.fixture(autouse=True)
def nni_writes_to_a_temporary_folder(tmp_path, monkeypatch):
    keep_nni_in(tmp_path, monkeypatch)


def in_process(folder, model_format="raw", **settings):
    return RetiariiExeConfig(
        execution_engine="sequential", model_format=model_format, experiment_working_directory=folder, **settings
    )


def few_digits():
    """Return a scoring that any process can make for itself: three batches, the last one smaller."""
    return image_scoring(digits(train=False).first(50), DIGITS_TEST, batch_size=20)


def named(archs):
    return {f"arch{index}": arch for index, arch in enumerate(archs, 1)}


def report_one(model):
    nni.report_final_result(1.0)


# Workarounds: NNI's own behaviour first, ours after it.


def test_engine_and_format_can_be_set_by_name_after_the_config_is_made():
    theirs = NasExperimentConfig("ts", "simplified", "local", trial_concurrency=1)
    theirs.execution_engine = "sequential"
    with pytest.raises(ValueError, match="execution_engine"):
        theirs.validate()

    ours = RetiariiExeConfig()
    ours.execution_engine, ours.model_format = "sequential", "raw"
    ours.validate()
    assert (ours.execution_engine.name, ours.model_format.name) == ("sequential", "raw")


def test_a_config_class_of_another_name_needs_no_tuner(tmp_path):
    class Renamed(NasExperimentConfig):
        pass

    with pytest.raises(ValueError, match="tuner must be set"):
        Renamed("sequential", "raw", "local", trial_concurrency=1).validate()

    config = RetiariiExeConfig(execution_engine="sequential", max_trial_number=7, experiment_working_directory=tmp_path)
    canonical = config.canonical_copy()
    assert (type(canonical), type(config)) == (NasExperimentConfig, RetiariiExeConfig)
    assert canonical.max_trial_number == canonical.execution_engine.max_model_count == 7
    assert canonical.experiment_working_directory == str(tmp_path)
    assert config.execution_engine.max_model_count is None


@pytest.mark.parametrize("operation", [MixedConv2d, MixedLinear])
def test_supernets_of_nnis_own_freeze_layers_without_bias(operation, monkeypatch):
    class NoBias(ModelSpace):
        def __init__(self):
            super().__init__()
            width = nni.choice("width", [1, 2])
            if operation is MixedConv2d:
                self.layer = MutableConv2d(1, width, 1, bias=False)
            else:
                self.layer = MutableLinear(1, width, bias=False)

    supernet = RandomOneShot().mutate_model(NoBias())
    assert torch.equal(supernet.freeze({"width": 1}).layer.weight, supernet.layer.weight[:1])
    monkeypatch.setattr(operation, "freeze_weight", operation.freeze_weight.__wrapped__)
    with pytest.raises(RuntimeError, match='Unexpected key.* "bias"'):
        supernet.freeze({"width": 1})


RECORD = """
const { Server } = require("net");
Server.prototype.listen = function (...args) {
  require("fs").writeSync(1, JSON.stringify(args.filter((each) => typeof each !== "function")));
  process.exit(0);
};
"""


def test_nnis_manager_names_no_host_unless_it_is_bound_to_this_machine(tmp_path, monkeypatch):
    """The manager is stopped where it would listen, so that nothing listens on all interfaces."""
    (tmp_path / "record.js").write_text(RECORD)
    monkeypatch.setenv("NODE_OPTIONS", f"--require {tmp_path / 'record.js'}")
    assert manager_would_listen_on(tmp_path, 54321) == [54321]
    with localhost_only():
        assert manager_would_listen_on(tmp_path, 54321) == [54321, "127.0.0.1"]
    assert os.environ["NODE_OPTIONS"] == f"--require {tmp_path / 'record.js'}"


def manager_would_listen_on(folder, port):
    node = Path(nni_node.__path__[0])
    options = {"port": port, "experiment-id": "test", "action": "create", "mode": "local", "log-level": "info"}
    options |= {"experiments-directory": folder, "python-interpreter": sys.executable}
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    run = subprocess.run([node / "node", node / "main.js", *words], capture_output=True, text=True, timeout=60)
    return json.loads(run.stdout)


def test_localhost_only_leaves_no_variable_behind(monkeypatch):
    monkeypatch.delenv("NODE_OPTIONS", raising=False)
    with pytest.raises(KeyError), localhost_only():
        raise KeyError
    assert "NODE_OPTIONS" not in os.environ


def test_one_needless_warning_of_nnis_is_dropped_and_no_other(caplog):
    logger = logging.getLogger("nni.nas.experiment.config.experiment")
    config = NasExperimentConfig("sequential", "raw", "local", trial_concurrency=1)
    config.validate()
    logger.warning("another")
    assert caplog.messages == ["another"]

    (ours,) = logger.filters
    logger.removeFilter(ours)
    try:
        config.validate()
    finally:
        logger.addFilter(ours)
    assert caplog.messages[1:] == ["`training_service` will be ignored for sequential execution engine."]


def test_a_strategy_without_a_checkpoint_has_no_state_and_no_warning(tmp_path, caplog):
    train = digits(train=True).first(32)
    plan = Optimization(epochs=1, batch_size=32, lr=0.1, warmup_steps=0, weight_decay=0.0)
    run = TrainingRun(tmp_path, accelerator="cpu", write=lambda line: None)
    evaluator = training_evaluator(plan, train, DIGITS_TRAIN, train, seed=0, run=run)
    strategy = SandwichStrategy(2)
    assert strategy.state_dict() == {}
    strategy.initialize(RawFormatModelSpace(tiny_space(), evaluator), SequentialExecutionEngine())

    caplog.clear()
    assert strategy.state_dict() == {}
    assert caplog.messages == []
    assert OneShotStrategy.state_dict(strategy) == {}
    assert "does not have last_model_path" in caplog.text

    strategy.run()
    assert strategy.state_dict() == {"ckpt_path": str(tmp_path / "checkpoints" / "last.ckpt")}


def test_an_experiment_in_this_process_is_stopped_when_it_has_run(tmp_path):
    for kind, status in [(NasExperiment, "RUNNING"), (RetiariiExperiment, "STOPPED")]:
        strategy = ReleasedArchs(named(random_archs(tiny_space().form, 1)), tiny_space().labels)
        run = kind(tiny_supernet(), FunctionalEvaluator(report_one), strategy, in_process(tmp_path))
        run.run()
        assert Experiments().get_all_experiments()[run.id]["status"] == status
        run.stop()


# Experiments in this process.


def test_without_a_config_supernets_and_one_shot_strategies_run_in_this_process_and_others_do_not():
    def of(space, strategy):
        return RetiariiExperiment(space, FunctionalEvaluator(report_one), strategy).config

    for config in (of(tiny_supernet(), Random()), of(tiny_space(), SandwichStrategy())):
        assert (config.execution_engine.name, config.model_format.name) == ("sequential", "raw")
    config = of(tiny_space(), Random())
    assert (config.execution_engine.name, config.model_format.name) == ("ts", "simplified")
    assert (config.training_service.platform, config.trial_concurrency) == ("local", 1)


@BOTH_SHORTCUTS
@pytest.mark.parametrize("bn", ["supernet", "test", "batch"])
def test_trials_score_exactly_what_the_plain_scorer_does_in_the_lists_order(shortcut, bn, tmp_path):
    supernet = tiny_supernet(shortcut=shortcut)
    batches = [random_batch(5), random_batch(3, seed=1)]
    scoring = Scoring("loss", bn, lambda: batches)
    archs = named(random_archs(supernet.form, 10))
    strategy = ReleasedArchs(archs, supernet.labels)
    evaluator = FunctionalEvaluator(score_subnet, scoring=lambda: scoring)
    assert RetiariiExperiment(supernet, evaluator, strategy, in_process(tmp_path)).run()
    assert list(strategy.scores().items()) == list(
        zip(archs, score_archs(supernet, archs.values(), scoring), strict=True)
    )


def test_a_trial_costs_at_most_ten_milliseconds_more_than_its_evaluation(tmp_path):
    """Measured: 6.1 ms, of which 4.3 build the layers."""
    began = []

    def evaluate(model):
        began.append(time.process_time())
        nni.report_final_result(1.0)

    supernet = tiny_supernet(torch.float32)
    strategy = ReleasedArchs(named(random_archs(supernet.form, 101)), supernet.labels)
    RetiariiExperiment(supernet, FunctionalEvaluator(evaluate), strategy, in_process(tmp_path)).run()
    assert len(strategy.scores()) == 101
    assert statistics.median(after - before for before, after in zip(began, began[1:], strict=False)) <= 0.010


def test_freezing_a_supernet_leaves_torchs_generator_alone():
    supernet = tiny_supernet()
    before = torch.get_rng_state()
    supernet.freeze(supernet.sample(supernet.largest))
    assert torch.equal(torch.get_rng_state(), before)


def test_trials_with_a_checkpoint_load_it_once_and_again_when_it_has_changed(tmp_path, monkeypatch):
    loaded = []

    def load(path, supernet):
        loaded.append(path)
        return original(path, supernet)

    original = evaluators.load_supernet
    monkeypatch.setattr(evaluators, "load_supernet", load)
    path = tmp_path / "supernet.safetensors"
    archs = named(random_archs(tiny_space().form, 3))
    scores = []
    for seed in (0, 1):
        supernet = tiny_supernet(torch.float32, seed)
        save_supernet(path, supernet, {})
        strategy = ReleasedArchs(archs, supernet.labels)
        evaluator = FunctionalEvaluator(score_subnet, scoring=few_digits, checkpoint=str(path))
        RetiariiExperiment(tiny_space(), evaluator, strategy, in_process(tmp_path, "simplified")).run()
        assert loaded == [path] * (seed + 1)
        assert list(strategy.scores().values()) == list(score_archs(supernet, archs.values(), few_digits()))
        scores.append(strategy.scores())
    assert scores[0] != scores[1]


def test_a_trial_reports_the_mean_so_far_after_every_batch_and_the_score_at_the_end(tmp_path):
    supernet = tiny_supernet(torch.float32)
    archs = random_archs(supernet.form, 1)
    strategy = ReleasedArchs(named(archs), supernet.labels)
    evaluator = FunctionalEvaluator(score_subnet, scoring=few_digits)
    RetiariiExperiment(supernet, evaluator, strategy, in_process(tmp_path)).run()
    batches = list(few_digits().test())
    so_far = [next(score_archs(supernet, archs, Scoring("loss", "batch", lambda n=n: batches[:n]))) for n in (1, 2, 3)]
    (model,) = strategy.list_models()
    assert list(model.metrics.intermediates) == so_far
    assert model.metric == so_far[-1]


def test_a_trial_that_fails_ends_the_experiment_with_its_error(tmp_path):
    def fail(model):
        raise ZeroDivisionError("of the evaluator")

    supernet = tiny_supernet()
    strategy = ReleasedArchs(named(random_archs(supernet.form, 2)), supernet.labels)
    run = RetiariiExperiment(supernet, FunctionalEvaluator(fail), strategy, in_process(tmp_path))
    with pytest.raises(ZeroDivisionError, match="of the evaluator"):
        run.run()
    assert Experiments().get_all_experiments()[run.id]["status"] == "STOPPED"
    assert strategy.scores() == {}


def test_an_interrupted_list_goes_on_where_it_was_in_another_experiment_of_the_same_name(tmp_path):
    seen = []

    def evaluate(model):
        seen.append(model.frozen_arch)
        if len(seen) == 3:
            raise KeyboardInterrupt
        nni.report_final_result(float(len(seen)))

    supernet = tiny_supernet()
    archs = named(random_archs(supernet.form, 5))
    first, second = (ReleasedArchs(archs, supernet.labels) for _ in range(2))
    evaluator = FunctionalEvaluator(evaluate)
    config = in_process(tmp_path)
    assert not RetiariiExperiment(supernet, evaluator, first, config, id="interrupted").run_or_resume()
    assert first.scores() == {"arch1": 1.0, "arch2": 2.0}
    assert RetiariiExperiment(supernet, evaluator, second, config, id="interrupted").run_or_resume()
    assert second.scores() == {"arch1": 1.0, "arch2": 2.0, "arch3": 4.0, "arch4": 5.0, "arch5": 6.0}
    assert second.state_dict() == {"scores": second.scores()}
    order = list(archs.values())
    assert [arch.choices[:19] for arch in seen] == [arch.choices[:19] for arch in (*order[:3], *order[2:])]


def test_interrupted_training_returns_no_supernet(tmp_path, monkeypatch):
    def interrupt(strategy, model):
        raise KeyboardInterrupt

    monkeypatch.setattr(SandwichStrategy, "mutate_model", interrupt)
    images, run = digits(train=True).first(100), TrainingRun(tmp_path, accelerator="cpu")
    with pytest.raises(KeyboardInterrupt):
        train_supernet(tiny_space(), DIGITS, images, images, seed=0, run=run)


def test_a_list_stops_at_the_largest_number_of_trials(tmp_path):
    supernet = tiny_supernet()
    strategy = ReleasedArchs(named(random_archs(supernet.form, 5)), supernet.labels)
    config = in_process(tmp_path, max_trial_number=2)
    RetiariiExperiment(supernet, FunctionalEvaluator(report_one), strategy, config).run()
    assert list(strategy.scores()) == ["arch1", "arch2"]


# Experiments with NNI's manager.


def test_trials_of_the_local_training_service_score_what_trials_in_this_process_do(tmp_path):
    supernet = tiny_supernet(torch.float32)
    save_supernet(tmp_path / "supernet.safetensors", supernet, {})
    archs = named(random_archs(supernet.form, 2))
    here, there = (ReleasedArchs(archs, supernet.labels) for _ in range(2))
    evaluator = FunctionalEvaluator(score_subnet, scoring=few_digits)
    RetiariiExperiment(supernet, evaluator, here, in_process(tmp_path)).run()

    checkpoint = str(tmp_path / "supernet.safetensors")
    evaluator = FunctionalEvaluator(
        score_subnet,
        scoring=lambda: image_scoring(digits(train=False).first(50), DIGITS_TEST, batch_size=20),
        checkpoint=checkpoint,
    )
    run = RetiariiExperiment(tiny_space(), evaluator, there)
    config = RetiariiExeConfig("local", trial_concurrency=2, max_trial_number=2, experiment_working_directory=tmp_path)
    port = free_port()
    try:
        assert run.run(config, port)
        manager = run._proc
        assert listening_addresses(port) == {"127.0.0.1"}
        models = list(there.list_models(sort=False))
    finally:
        run.stop()
    assert manager.poll() is not None
    assert listening_addresses(port) == set()

    assert there.scores() == here.scores()
    assert (tmp_path / run.id / "log" / "experiment.log").is_file()
    assert intermediates_of(models) == intermediates_of(here.list_models())


def intermediates_of(models):
    """Return the three intermediate results of every arch, sorted: NNI's manager may hand them on in another order."""
    reported = {str(model.sample): sorted(model.metrics.intermediates) for model in models}
    assert {len(values) for values in reported.values()} == {3}
    return reported


# Evolution.


def evolved(folder, name, *, seed=0, trials=30, **settings):
    supernet = tiny_supernet(torch.float32)
    best = evolve(
        supernet,
        few_digits(),
        out=folder / name,
        trials=trials,
        population=8,
        seed=seed,
        provenance={"seed": seed},
        **settings,
    )
    return best, read_scores(folder / name, supernet.form)


def test_evolution_writes_every_arch_it_scored_and_returns_the_best(tmp_path):
    advanced = []
    best, written = evolved(tmp_path, "scores.json", advance=advanced.append)
    assert list(written.scores) == [f"arch{index}" for index in range(1, 31)]
    assert len(advanced) == 30
    assert written.provenance == {"seed": 0}
    archs, scores = zip(*written.scores.values(), strict=True)
    assert list(score_archs(tiny_supernet(torch.float32), archs, few_digits())) == list(scores)
    assert best == archs[scores.index(max(scores))]


def test_evolution_changes_little_in_one_of_the_better_archs_of_the_last_eight(tmp_path):
    _, written = evolved(tmp_path, "scores.json")
    archs = [arch.choices for arch, _ in written.scores.values()]

    def distance(one, other):
        return sum(a != b for a, b in zip(one, other, strict=True))

    for index in range(8, 30):
        assert min(distance(archs[index], parent) for parent in archs[index - 8 : index]) <= 5
    assert min(distance(archs[7], other) for other in archs[:7]) > 5


def test_evolution_depends_on_its_seed_alone(tmp_path):
    random.seed(1)
    first = evolved(tmp_path, "first.json", seed=1)
    random.seed(2)
    torch.manual_seed(2)
    assert evolved(tmp_path, "second.json", seed=1) == first
    assert evolved(tmp_path, "other.json", seed=2)[1].scores != first[1].scores


def test_an_interrupted_evolution_writes_nothing(tmp_path):
    def interrupt(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evolved(tmp_path, "scores.json", advance=interrupt)
    assert not (tmp_path / "scores.json").exists()


def test_the_search_command_prints_its_answer_alone_and_what_it_does_on_standard_error(tmp_path):
    supernet = tiny_supernet(torch.float32)
    save_supernet(tmp_path / "supernet.safetensors", supernet, {"made": "for a test"})
    command = [sys.executable, "-m", "nni_nas_consistency", "search", "--space", "digits", "--data", "digits"]
    command += ["--checkpoint", "supernet.safetensors", "--trials", "6", "--population", "3", "--images", "50"]
    environment = os.environ | {"HOME": str(tmp_path)}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert run.stderr.startswith("6/6 archs, ")
    assert run.stderr.count("\n") == 1

    written = read_scores(tmp_path / "searched.json", supernet.form)
    assert written.provenance["checkpoint"] == {"made": "for a test"}
    assert len(written.scores) == 6
    archs, scores = zip(*written.scores.values(), strict=True)
    scoring = image_scoring(digits(train=False).first(50), DIGITS_TEST)
    assert list(score_archs(supernet, archs, scoring)) == pytest.approx(list(scores), rel=1e-6)
    assert run.stdout == f"searched.json\nbest: {archs[scores.index(max(scores))].code}\n"
