"""Experiments with the real NNI, and every workaround: first what NNI 3.0 does, then what we make of it.

A test of a workaround fails when NNI no longer needs it.
"""

import io
import json
import logging
import os
import pickle
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import nni
import nni_node
import numpy as np
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
from nni.experiment import launcher
from nni.nas.evaluator import FunctionalEvaluator
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.experiment import NasExperiment, NasExperimentConfig
from nni.nas.nn.pytorch import ModelSpace, MutableConv2d, MutableLinear
from nni.nas.oneshot.pytorch.strategy import OneShotStrategy
from nni.nas.space import RawFormatModelSpace
from nni.nas.strategy import GridSearch, Random, RandomOneShot, RegularizedEvolution
from nni.tools.nnictl.config_utils import Experiments

from nni_nas_consistency import (
    ReleasedArchs,
    RetiariiExeConfig,
    RetiariiExperiment,
    SandwichStrategy,
    Scoring,
    TrainingRun,
    image_scoring,
    save_supernet,
    score_archs,
    score_subnet,
    train_supernet,
    training_evaluator,
)
from nni_nas_consistency.errors import Diverged, Terminated
from nni_nas_consistency.images.augmentation import DIGITS_TEST, DIGITS_TRAIN
from nni_nas_consistency.images.datasets import digits
from nni_nas_consistency.nni3 import trial
from nni_nas_consistency.nni3.experiment import run_in_process
from nni_nas_consistency.nni3.manager import localhost_only, patient_start
from nni_nas_consistency.training.recipes import EMBEDDED, Optimization

IGNORED_SERVICE = "`training_service` will be ignored for sequential execution engine."


@pytest.fixture(autouse=True)
def nni_writes_to_a_temporary_folder(tmp_path, monkeypatch):
    keep_nni_in(tmp_path, monkeypatch)


class Toy(ModelSpace):
    """A convolution and a linear layer without bias, 8 × 8 archs."""

    def __init__(self):
        super().__init__()
        self.conv = MutableConv2d(1, nni.choice("channels", list(range(1, 9))), 1, bias=False)
        self.linear = MutableLinear(1, nni.choice("outputs", list(range(1, 9))), bias=False)


def in_process(folder, model_format="raw", **settings):
    return RetiariiExeConfig(
        execution_engine="sequential", model_format=model_format, experiment_working_directory=folder, **settings
    )


def nnis_own(folder):
    """Return the config that NNI 3.0 itself takes for trials in this process."""
    return NasExperimentConfig(
        "sequential", "raw", "local", trial_concurrency=1, max_trial_number=3, experiment_working_directory=folder
    )


def few_digits():
    """Return a scoring that any process can make for itself: three batches, the last one smaller."""
    return image_scoring(digits(train=False).first(50), DIGITS_TEST, batch_size=20)


def released(space, n):
    """Return n archs by name, and the strategy that runs them in this order."""
    archs = {f"arch{index}": arch for index, arch in enumerate(random_archs(space.domain, n), 1)}
    return archs, ReleasedArchs(archs)


def plain_scores(supernet, archs, scoring):
    return [score.of(scoring.metric) for score in score_archs(supernet, archs.values(), scoring)]


def report_one(model):
    nni.report_final_result(1.0)


@contextmanager
def console():
    """Give what NNI writes to a console, line by line."""
    handler = logging.StreamHandler(io.StringIO())
    logging.getLogger("nni").addHandler(handler)
    try:
        yield handler.stream
    finally:
        logging.getLogger("nni").removeHandler(handler)


def status_of(experiment):
    return Experiments().get_all_experiments()[experiment.id]["status"]


# Workarounds.


def test_engine_and_format_can_be_set_by_name_after_the_config_is_made():
    theirs = NasExperimentConfig("ts", "simplified", "local", trial_concurrency=1)
    theirs.execution_engine = "sequential"
    with pytest.raises(ValueError, match="execution_engine"):
        theirs.validate()

    ours = RetiariiExeConfig()
    ours.execution_engine, ours.model_format = "sequential", "raw"
    ours.validate()
    assert (ours.execution_engine.name, ours.model_format.name) == ("sequential", "raw")


def test_a_subclass_of_nnis_config_needs_no_tuner(tmp_path):
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


def test_nni_warns_that_it_ignores_the_training_service_and_we_do_not(tmp_path, caplog):
    def evaluate(model):
        logging.getLogger("nni.nas.experiment.config.experiment").warning("another")
        nni.report_final_result(1.0)

    theirs = NasExperiment(Toy(), FunctionalEvaluator(evaluate), Random(seed=0), nnis_own(tmp_path))
    theirs.run()
    theirs.stop()
    assert caplog.messages.count(IGNORED_SERVICE) > 3

    for config in (in_process(tmp_path, max_trial_number=3), nnis_own(tmp_path)):
        caplog.clear()
        RetiariiExperiment(Toy(), FunctionalEvaluator(evaluate), Random(seed=0), config).run()
        assert caplog.messages.count(IGNORED_SERVICE) == 0
        assert caplog.messages.count("another") == 3


def test_an_experiment_in_this_process_prints_nothing_but_warnings(tmp_path):
    def evaluate(model):
        logging.getLogger("nni.evaluator").warning("of a trial")
        nni.report_final_result(1.0)

    shown = []
    for kind in (NasExperiment, RetiariiExperiment):
        run = kind(Toy(), FunctionalEvaluator(evaluate), Random(seed=0), in_process(tmp_path, max_trial_number=2))
        with console() as lines:
            run.run()
        run.stop()
        shown.append(lines.getvalue().splitlines())
        assert "Experiment initialized successfully" in (tmp_path / run.id / "log" / "experiment.log").read_text()
    theirs, ours = shown
    assert len(theirs) > 2
    assert ours == ["of a trial"] * 2


def test_an_experiment_that_debugs_prints_everything(tmp_path):
    run = RetiariiExperiment(
        Toy(), FunctionalEvaluator(report_one), Random(seed=0), in_process(tmp_path, max_trial_number=1)
    )
    with console() as lines:
        run.run(debug=True)
    assert "Experiment is completed." in lines.getvalue()


def interrupted_as_by_lightning(model):
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        sys.exit(1)


def interrupted(model):
    raise KeyboardInterrupt


def terminated(model):
    raise Terminated


def diverged(model):
    raise Diverged("which the command line says in one line")


def test_ctrl_c_in_an_experiment_of_this_process_is_no_failed_model(tmp_path):
    for evaluate, theirs in [
        (interrupted_as_by_lightning, "Model 1 fails to be executed"),
        (interrupted, "Model 1 is interrupted"),
        (terminated, "Model 1 fails to be executed"),
        (diverged, "Model 1 fails to be executed"),
    ]:
        shown = []
        for kind in (NasExperiment, RetiariiExperiment):
            run = kind(Toy(), FunctionalEvaluator(evaluate), Random(seed=0), in_process(tmp_path))
            with console() as lines, suppress(SystemExit, Terminated, Diverged):
                assert not run.run()
            run.stop()
            shown.append(lines.getvalue())
        assert theirs in shown[0] and shown[1] == ""
        assert theirs in (tmp_path / run.id / "log" / "experiment.log").read_text()


def test_a_model_that_fails_is_told(tmp_path):
    def fail(model):
        raise ZeroDivisionError

    run = RetiariiExperiment(Toy(), FunctionalEvaluator(fail), Random(seed=0), in_process(tmp_path))
    with console() as lines, pytest.raises(ZeroDivisionError):
        run.run()
    assert "Model 1 fails to be executed." in lines.getvalue()


def everything_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("evaluate", [report_one, interrupted])
def test_an_experiment_that_leaves_nothing_behind_leaves_nothing_behind(tmp_path, evaluate):
    folder = tmp_path / "nni"
    (folder / "experiment").mkdir(parents=True)
    (folder / "experiment" / "of a killed one").touch()
    seen = []

    def look(model):
        seen.append(everything_in(tmp_path))
        evaluate(model)

    strategy = Random(seed=0)
    finished = run_in_process(Toy(), FunctionalEvaluator(look), strategy, folder=folder, max_trial_number=2)
    assert finished == (evaluate is report_one)
    assert len(list(strategy.list_models())) == (2 if finished else 0)
    assert "nni/experiment/log/experiment.log" in seen[0] and "nni/experiment/of a killed one" not in seen[0]
    assert everything_in(tmp_path) == []


def test_an_experiment_that_fails_leaves_its_log_and_tells_where(tmp_path, caplog):
    def fail(model):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_in_process(Toy(), FunctionalEvaluator(fail), Random(seed=0), folder=tmp_path / "nni")
    log = tmp_path / "nni" / "experiment" / "log" / "experiment.log"
    assert "Model 1 fails to be executed" in log.read_text()
    assert f"NNI's log of the run that failed: {log}" in caplog.messages


def test_the_folder_of_an_experiment_that_leaves_nothing_behind_keeps_what_is_not_its_own(tmp_path):
    (tmp_path / "nni").mkdir()
    (tmp_path / "nni" / "mine").touch()
    run_in_process(Toy(), FunctionalEvaluator(report_one), Random(seed=0), folder=tmp_path / "nni", max_trial_number=1)
    assert everything_in(tmp_path) == ["nni", "nni/mine"]


def test_an_experiment_in_this_process_is_stopped_after_its_run(tmp_path):
    for kind, status in [(NasExperiment, "RUNNING"), (RetiariiExperiment, "STOPPED")]:
        run = kind(Toy(), FunctionalEvaluator(report_one), Random(), in_process(tmp_path, max_trial_number=1))
        run.run()
        assert status_of(run) == status
        run.stop()


def test_nnis_supernets_freeze_layers_without_bias_in_an_experiment(tmp_path):
    supernet = RandomOneShot().mutate_model(Toy())
    sample = {"channels": 1, "outputs": 2}
    seen = []

    def evaluate(model):
        seen.append(model)
        nni.report_final_result(1.0)

    evaluator, config = FunctionalEvaluator(evaluate), in_process(tmp_path, max_trial_number=3)
    theirs = NasExperiment(supernet, evaluator, Random(seed=0), config)
    with pytest.raises(RuntimeError, match='Unexpected key.* "bias"'):
        theirs.run()
    theirs.stop()
    assert seen == []

    assert RetiariiExperiment(supernet, evaluator, Random(seed=0), config).run()
    assert len(seen) == 3
    for model in seen:
        channels, outputs = len(model.conv.weight), len(model.linear.weight)
        assert torch.equal(model.conv.weight, supernet.conv.weight[:channels])
        assert torch.equal(model.linear.weight, supernet.linear.weight[:outputs])
    with pytest.raises(RuntimeError, match='Unexpected key.* "bias"'):
        supernet.freeze(sample)


RECORD = """
const { Server } = require("net");
Server.prototype.listen = function (...args) {
  require("fs").writeSync(1, JSON.stringify(args.filter((each) => typeof each !== "function")));
  process.exit(0);
};
"""


def test_nnis_manager_listens_on_all_interfaces_unless_it_is_bound_to_this_machine(tmp_path, monkeypatch):
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


@pytest.mark.parametrize("ours", [False, True], ids=["NNI alone", "ours"])
def test_a_log_that_cannot_be_written_costs_no_traceback(tmp_path, capfd, ours):
    logs = []

    def fill_the_disk(model):
        logs.extend(each for each in logging.getLogger("nni").handlers if str(tmp_path) in str(each))
        for log in logs:
            log.stream = open("/dev/full", "w")
        nni.report_final_result(1.0)

    evaluator, strategy = FunctionalEvaluator(fill_the_disk), Random(seed=0)
    if ours:
        run_in_process(Toy(), evaluator, strategy, folder=tmp_path / "nni", max_trial_number=1)
    else:
        config = in_process(tmp_path, max_trial_number=1).canonical_copy()
        experiment = NasExperiment(Toy(), evaluator, strategy, config)
        experiment.run()
        logs[0].stream = open(os.devnull, "w")
        experiment.stop()
    assert len(logs) == 1
    assert ("--- Logging error ---" in capfd.readouterr().err) != ours


@pytest.mark.parametrize("patient", [False, True])
def test_a_manager_that_is_slow_to_start_is_waited_for(monkeypatch, patient):
    answers = iter([ConnectionError] * 6)

    def get(*where):
        if (error := next(answers, None)) is not None:
            raise error

    monkeypatch.setattr(launcher.rest, "get", get)
    monkeypatch.setattr(launcher.time, "sleep", lambda seconds: None)
    with patient_start() if patient else pytest.raises(ConnectionError):
        launcher._check_rest_server(1, url_prefix=None)


def test_localhost_only_leaves_no_variable_behind(monkeypatch):
    monkeypatch.delenv("NODE_OPTIONS", raising=False)
    with pytest.raises(KeyError), localhost_only():
        raise KeyError
    assert "NODE_OPTIONS" not in os.environ


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


# Resume.

SEARCHES = pytest.mark.parametrize(
    "strategy",
    [
        lambda: Random(seed=0),
        lambda: GridSearch(shuffle=False, seed=0),
        lambda: RegularizedEvolution(population_size=10, sample_size=2, seed=0),
    ],
    ids=["Random", "GridSearch", "RegularizedEvolution"],
)


def searched(strategy, config, id, *, interrupt_at=None, kind=RetiariiExperiment):
    """Run or resume a search of `Toy`, and return the samples of the trials that began."""
    began = []

    def evaluate(model):
        began.append((model.conv.out_channels, model.linear.out_features))
        if len(began) == interrupt_at:
            raise KeyboardInterrupt
        nni.report_final_result(np.float64(-len(began)))

    experiment = kind(Toy(), FunctionalEvaluator(evaluate), strategy, config, id=id)
    try:
        finished = experiment.run_or_resume()
    finally:
        experiment.stop()
    assert bool(finished) == (interrupt_at is None)
    return began


@SEARCHES
def test_an_interrupted_search_resumes_with_its_generator_and_its_history(strategy, tmp_path):
    config = in_process(tmp_path, max_trial_number=7)
    complete = searched(strategy(), config, "complete")
    assert len(set(complete)) == 7
    searched(strategy(), config, "theirs", interrupt_at=4, kind=NasExperiment)
    with pytest.raises(pickle.UnpicklingError):
        searched(strategy(), config, "theirs", kind=NasExperiment)

    assert searched(strategy(), config, "interrupted", interrupt_at=4) == complete[:4]
    allowed = set(torch.serialization.get_safe_globals())
    assert searched(strategy(), config, "interrupted") == complete[4:]
    assert set(torch.serialization.get_safe_globals()) == allowed


def test_a_resumed_evolution_goes_on_from_its_population(tmp_path):
    def copies_the_best():
        return RegularizedEvolution(population_size=3, sample_size=3, mutation_prob=0.0, dedup=False, seed=0)

    config = in_process(tmp_path, max_trial_number=7)
    best, *_, interrupted = searched(copies_the_best(), config, "evolution", interrupt_at=4)
    assert interrupted == best
    assert searched(copies_the_best(), config, "evolution")[0] == best


def test_a_checkpoint_with_other_pickles_is_refused_and_left_as_it_is(tmp_path):
    config = in_process(tmp_path, max_trial_number=3)
    searched(Random(seed=0), config, "tampered", interrupt_at=2)
    (checkpoint,) = (tmp_path / "tampered" / "checkpoint").glob("state.ckpt*")
    state = torch.load(checkpoint, weights_only=False)
    torch.save(state | {"strategy": Path("other")}, checkpoint)
    before = checkpoint.read_bytes()
    with pytest.raises(pickle.UnpicklingError):
        searched(Random(seed=0), config, "tampered")
    assert checkpoint.read_bytes() == before


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
@pytest.mark.parametrize(("bn", "metric"), [("supernet", "loss"), ("test", "acc"), ("batch", "loss")])
def test_trials_score_exactly_what_the_plain_scorer_does_in_the_lists_order(shortcut, bn, metric, tmp_path):
    supernet = tiny_supernet(shortcut=shortcut)
    batches = [random_batch(5), random_batch(3, seed=1)]
    scoring = Scoring(metric, bn, lambda: batches)
    archs, strategy = released(supernet, 5)
    evaluator = FunctionalEvaluator(score_subnet, scoring=lambda: scoring)
    assert RetiariiExperiment(supernet, evaluator, strategy, in_process(tmp_path)).run()
    expected = zip(archs, plain_scores(supernet, archs, scoring), strict=True)
    assert list(strategy.scores().items()) == list(expected)


def test_freezing_a_supernet_leaves_torchs_generator_alone():
    supernet = tiny_supernet()
    before = torch.get_rng_state()
    supernet.freeze(supernet.sample(supernet.largest))
    assert torch.equal(torch.get_rng_state(), before)


def test_trials_with_a_checkpoint_load_it_once_and_again_when_it_has_changed(tmp_path, monkeypatch):
    loaded = []

    def load(path, space):
        loaded.append(path)
        return original(path, space)

    original = trial.supernet_of
    monkeypatch.setattr(trial, "supernet_of", load)
    path = tmp_path / "supernet.safetensors"
    scores = []
    for seed in (0, 1):
        supernet = tiny_supernet(torch.float32, seed)
        save_supernet(path, supernet, {})
        archs, strategy = released(supernet, 3)
        evaluator = FunctionalEvaluator(score_subnet, scoring=few_digits, checkpoint=str(path))
        RetiariiExperiment(tiny_space(), evaluator, strategy, in_process(tmp_path, "simplified")).run()
        assert loaded == [path] * (seed + 1)
        assert list(strategy.scores().values()) == plain_scores(supernet, archs, few_digits())
        scores.append(strategy.scores())
    assert scores[0] != scores[1]


def test_a_trial_reports_the_mean_so_far_after_every_batch_and_the_score_at_the_end(tmp_path):
    supernet = tiny_supernet(torch.float32)
    archs, strategy = released(supernet, 1)
    evaluator = FunctionalEvaluator(score_subnet, scoring=few_digits)
    RetiariiExperiment(supernet, evaluator, strategy, in_process(tmp_path)).run()
    batches = list(few_digits().test())
    so_far = []
    for n in (1, 2, 3):
        so_far += plain_scores(supernet, archs, Scoring("loss", "batch", lambda n=n: batches[:n]))
    (model,) = strategy.list_models()
    assert list(model.metrics.intermediates) == so_far
    assert model.metric == so_far[-1]


def test_a_trial_that_fails_ends_the_experiment_with_its_error(tmp_path):
    def fail(model):
        raise ZeroDivisionError("of the evaluator")

    supernet = tiny_supernet()
    _, strategy = released(supernet, 2)
    run = RetiariiExperiment(supernet, FunctionalEvaluator(fail), strategy, in_process(tmp_path))
    with pytest.raises(ZeroDivisionError, match="of the evaluator"):
        run.run()
    assert status_of(run) == "STOPPED"
    assert strategy.scores() == {}


def test_an_interrupted_list_goes_on_where_it_was_in_another_experiment_of_the_same_name(tmp_path):
    seen = []

    def evaluate(model):
        seen.append(model.frozen_arch)
        if len(seen) == 3:
            raise KeyboardInterrupt
        nni.report_final_result(float(len(seen)))

    supernet = tiny_supernet()
    (archs, first), (_, second) = (released(supernet, 5) for _ in range(2))
    evaluator = FunctionalEvaluator(evaluate)
    config = in_process(tmp_path)
    assert not RetiariiExperiment(supernet, evaluator, first, config, id="interrupted").run_or_resume()
    assert first.scores() == {"arch1": 1.0, "arch2": 2.0}
    assert RetiariiExperiment(supernet, evaluator, second, config, id="interrupted").run_or_resume()
    assert second.scores() == {"arch1": 1.0, "arch2": 2.0, "arch3": 4.0, "arch4": 5.0, "arch5": 6.0}
    assert second.state_dict() == {"scores": second.scores()}
    order = list(archs.values())
    assert [supernet.sample(arch) for arch in seen] == [supernet.sample(arch) for arch in (*order[:3], *order[2:])]


def test_interrupted_training_returns_no_supernet(tmp_path, monkeypatch):
    def interrupt(strategy, model):
        raise KeyboardInterrupt

    monkeypatch.setattr(SandwichStrategy, "mutate_model", interrupt)
    images, run = digits(train=True).first(192), TrainingRun(tmp_path, accelerator="cpu")
    with pytest.raises(KeyboardInterrupt):
        train_supernet(tiny_space(), EMBEDDED, images, images, seed=0, run=run)


def test_a_list_stops_at_the_largest_number_of_trials(tmp_path):
    supernet = tiny_supernet()
    _, strategy = released(supernet, 5)
    config = in_process(tmp_path, max_trial_number=2)
    RetiariiExperiment(supernet, FunctionalEvaluator(report_one), strategy, config).run()
    assert list(strategy.scores()) == ["arch1", "arch2"]


# An experiment with NNI's manager.


def test_trials_of_the_local_training_service_score_what_trials_in_this_process_do(tmp_path):
    supernet = tiny_supernet(torch.float32)
    save_supernet(tmp_path / "supernet.safetensors", supernet, {})
    (_, here), (_, there) = (released(supernet, 2) for _ in range(2))
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
        with console() as lines:
            assert run.run(config, port)
        (urls,) = [line for line in lines.getvalue().splitlines() if "Web portal URLs" in line]
        assert urls.endswith(f"http://127.0.0.1:{port}") and urls.count("http") == 1
        assert listening_addresses(port) == {"127.0.0.1"}
        models = list(there.list_models(sort=False))
    finally:
        run.stop()
    assert listening_addresses(port) == set()

    assert there.scores() == here.scores()
    assert (tmp_path / run.id / "log" / "experiment.log").is_file()
    assert intermediates_of(models) == intermediates_of(here.list_models())


def intermediates_of(models):
    """Return the three intermediate results of every arch, sorted: NNI's manager may hand them on in another order."""
    reported = {str(model.sample): sorted(model.metrics.intermediates) for model in models}
    assert {len(values) for values in reported.values()} == {3}
    return reported
