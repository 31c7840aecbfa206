"""What an experiment with NNI's manager survives: kill -9 of everything, trials that fail, hang or have no device."""

import logging
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nni
import psutil
import pytest
import survivor
import torch
from helpers import free_port, keep_nni_in, tiny_space, tiny_supernet, wait_for
from nni.nas.evaluator import FunctionalEvaluator
from nni.nas.execution import TrainingServiceExecutionEngine
from nni.nas.execution.event import ModelEventType
from nni.nas.space import ModelStatus
from nni.nas.strategy import RegularizedEvolution
from nni.runtime.tuner_command_channel import TunerCommandChannel
from nni.runtime.tuner_command_channel.command_type import CommandType

from nni_nas_consistency import ReleasedArchs, RetiariiExeConfig, RetiariiExperiment
from nni_nas_consistency.nni3.trials import TrialRecord
from nni_nas_consistency.nni3.workarounds import unknown_commands_passed_over

TESTS = Path(__file__).parent
SURVIVOR = TESTS / "survivor.py"


@pytest.fixture(autouse=True)
def nni_writes_to_a_temporary_folder(tmp_path, monkeypatch):
    keep_nni_in(tmp_path, monkeypatch)
    monkeypatch.chdir(TESTS)  # trials import the survivor from the folder in which the experiment is started


def processes_of(id):
    """Return all processes of an experiment: its own, NNI's manager, trials."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ() if process.status() != psutil.STATUS_ZOMBIE else {}
            named = any(id in word for word in process.cmdline()) or environment.get("NNI_EXP_ID") == id
            if named and process.pid != os.getpid():
                found.append(process)
        except psutil.Error:
            continue
    return found


def no_process_is_left(id):
    wait_for(lambda: not processes_of(id), seconds=30)


def fresh(name):
    """Return an identifier that no experiment of this machine has: by it processes are found, and killed."""
    return f"{name}{secrets.token_hex(4)}"


def started(folder, id, archs):
    words = [sys.executable, SURVIVOR, folder, str(free_port()), id, str(archs)]
    return subprocess.Popen([str(word) for word in words], cwd=TESTS, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def begun(folder):
    """Return how often a trial of each arch has begun."""
    counts = {}
    for path in (folder / "begun").glob("*"):
        code = path.name.partition(".")[0]
        counts[code] = counts.get(code, 0) + 1
    return counts


def sums(archs):
    return {name: float(sum(arch.choices.values())) for name, arch in archs.items()}


def test_after_kill_9_of_experiment_and_manager_no_arch_is_lost_and_none_counted_twice(tmp_path):
    id = fresh("killed")
    archs = survivor.archs_of(tiny_space(), 3)
    codes = [arch.code for arch in archs.values()]
    (tmp_path / f"{codes[1]}.waits").touch()
    process = started(tmp_path, id, len(archs))
    try:
        wait_for(lambda: codes[1] in begun(tmp_path), seconds=300)
        for each in processes_of(id):  # the manager, and this process
            is_trial = "nni.nas.execution.training_service" in " ".join(each.cmdline())
            if not is_trial:
                each.send_signal(signal.SIGKILL)
        process.send_signal(signal.SIGKILL)
        process.wait(20)
    finally:
        for each in processes_of(id):  # the trial, which waits
            each.kill()
    (tmp_path / f"{codes[1]}.waits").unlink()
    no_process_is_left(id)

    process = started(tmp_path, id, len(archs))
    _, err = process.communicate(timeout=420)
    assert process.returncode == 0, err.decode()
    finished, scores, by_code = eval((tmp_path / "scores").read_text())
    assert finished and scores == sums(archs)
    assert by_code == dict(zip(codes, scores.values(), strict=True))
    again = begun(tmp_path)
    assert (again[codes[0]], again[codes[2]]) == (1, 1)
    assert again[codes[1]] in (2, 3)  # NNI's manager runs the trial that was killed once more too
    no_process_is_left(id)


@pytest.mark.slow
def test_a_manager_that_dies_ends_the_run_with_a_line_on_how_to_go_on(tmp_path):
    id = fresh("dies")
    process = started(tmp_path, id, 2)
    (tmp_path / f"{survivor.archs_of(tiny_space(), 1)['arch0'].code}.waits").touch()
    try:
        wait_for(lambda: begun(tmp_path), seconds=300)
        for each in processes_of(id):
            if "main.js" in " ".join(each.cmdline()):
                each.kill()
        _, err = process.communicate(timeout=120)
    finally:
        for each in [process, *processes_of(id)]:
            each.kill()
    assert process.returncode == 1
    assert f"NNI's manager of experiment {id} has ended, see " in err.decode()
    assert f"go on with RetiariiExperiment(…, id={id!r}).run_or_resume()" in err.decode()


@pytest.mark.parametrize(
    "kind",
    ["raises", pytest.param("hangs", marks=pytest.mark.slow), pytest.param("has no device", marks=pytest.mark.slow)],
)
def test_a_trial_that_fails_is_named_and_run_once_more_and_stopping_leaves_no_process(tmp_path, caplog, kind):
    id = fresh("failing")
    code = survivor.archs_of(tiny_space(), 1)["arch0"].code
    (tmp_path / "trouble").write_text(f"{code} {kind}")
    limit = {"max_trial_duration": "30s"} if kind == "hangs" else {}
    run, strategy = survivor.experiment(tmp_path, id, archs=1, **limit)
    with caplog.at_level(logging.WARNING):
        try:
            assert run.run(port=free_port())
        finally:
            run.stop()
    assert strategy.scores() == sums(strategy.archs) and strategy.failed() == []
    assert begun(tmp_path) == {code: 2}
    assert f"the trial of {code} failed, and is run once more" in caplog.messages
    assert f"1 trial(s) failed: {code}" in caplog.messages
    assert run.failures() == {code: 1}
    no_process_is_left(id)


def test_nnis_listener_ends_at_the_first_command_of_a_resumed_manager(monkeypatch):
    channel = TunerCommandChannel("ws://127.0.0.1:1/tuner")
    waiting = []
    monkeypatch.setattr(channel, "_receive", lambda: waiting.pop(0))
    waiting += [(CommandType.ImportData, "[]"), (CommandType.RequestTrialJobs, "1")]
    with pytest.raises(ValueError, match="Unknown command type"):
        channel.receive()
    waiting.insert(0, (CommandType.ImportData, "[]"))
    with unknown_commands_passed_over():
        assert channel.receive().count == 1


# In this process, where a trial costs nothing.


def in_process(folder):
    config = RetiariiExeConfig(execution_engine="sequential", model_format="raw", experiment_working_directory=folder)
    config.execution_engine.continue_on_failure = True
    return config


def test_an_arch_that_fails_twice_is_named_and_the_others_have_their_scores(tmp_path, caplog):
    supernet = tiny_supernet(torch.float32)
    archs = survivor.archs_of(supernet, 3)
    tried = []

    def evaluate(model):
        tried.append(model.frozen_arch.code)
        if model.frozen_arch == archs["arch1"]:
            raise ZeroDivisionError
        nni.report_final_result(1.0)

    strategy = ReleasedArchs(archs)
    assert RetiariiExperiment(supernet, FunctionalEvaluator(evaluate), strategy, in_process(tmp_path)).run()
    assert list(strategy.scores()) == ["arch0", "arch2"] and strategy.failed() == ["arch1"]
    assert tried == [archs[name].code for name in ("arch0", "arch1", "arch1", "arch2")]
    assert "arch1 has no score: its trials failed" in caplog.messages


def test_other_strategies_run_a_trial_that_fails_once_more_too(tmp_path):
    supernet = tiny_supernet(torch.float32)
    tried = []

    def evaluate(model):
        tried.append(model.frozen_arch.code)
        if tried.count(model.frozen_arch.code) == 1:
            raise ZeroDivisionError
        nni.report_final_result(1.0)

    strategy = RegularizedEvolution(population_size=2, sample_size=2, seed=0)
    config = in_process(tmp_path)
    config.max_trial_number = 6
    run = RetiariiExperiment(supernet, FunctionalEvaluator(evaluate), strategy, config)
    assert run.run()
    first, second, third = tried[::2]
    assert tried == [first, first, second, second, third, third]
    assert run.failures() == dict.fromkeys([first, second, third], 1)
    assert [supernet.arch(model.sample).code for model in strategy.list_models()] == [first, second, third]


def test_a_model_that_nnis_manager_takes_no_more_is_not_waited_for_for_ever():
    engine = object.__new__(TrainingServiceExecutionEngine)
    engine._callbacks = {ModelEventType.FinalMetric: [], ModelEventType.TrainingEnd: []}
    engine.nodejs_binding = SimpleNamespace(get_status=lambda: answers.pop(0))
    TrialRecord(lambda sample: None).watch(engine, lambda: None)
    model, answers = SimpleNamespace(status=ModelStatus.Training), ["NO_MORE_TRIAL", "DONE"]
    engine.wait_models(model)
    assert answers == [] and model.status is ModelStatus.Training


def test_results_of_trials_before_a_resume_are_remembered_and_plain_numbers_are_nobodys():
    record = TrialRecord(lambda sample: None)
    record.remember([{"default": 0.5, "arch": "1-2"}, 0.7, {"default": 0.9}])
    assert record.scores == {"1-2": 0.5}


def test_a_checkpoint_that_is_being_written_does_not_replace_the_last_one(tmp_path, caplog):
    class Unsaved(ReleasedArchs):
        def state_dict(self):
            if self.scores():
                raise ZeroDivisionError
            return super().state_dict()

    supernet = tiny_supernet(torch.float32)
    strategy = Unsaved(survivor.archs_of(supernet, 1))
    evaluator = FunctionalEvaluator(lambda model: nni.report_final_result(1.0))
    run = RetiariiExperiment(supernet, evaluator, strategy, in_process(tmp_path), id="kept")
    assert run.run()
    (kept,) = (tmp_path / "kept" / "checkpoint").glob("state.ckpt*")
    assert torch.load(kept, weights_only=True)["strategy"] == {"scores": {}}
    assert "the checkpoint of the experiment could not be written" in caplog.text
