"""Two trials at once never swap parameters, and one that fails is run once more, whatever the strategy."""

import json
import logging
import os
import subprocess
from pathlib import Path

import nni_node
import pytest
from helpers import free_port, keep_nni_in, tiny_space
from nni.nas.evaluator import FunctionalEvaluator
from nni.nas.strategy import Random

from nni_nas_consistency import RetiariiExeConfig, RetiariiExperiment
from nni_nas_consistency.nni3.manager import own_parameters

TESTS = Path(__file__).parent
NODE = Path(nni_node.__file__).parent


@pytest.fixture(autouse=True)
def nni_writes_to_a_temporary_folder(tmp_path, monkeypatch):
    keep_nni_in(tmp_path, monkeypatch)
    monkeypatch.chdir(TESTS)  # trials import this file from the folder in which the experiment is started


def who_got_which():
    environment = os.environ | {"NODE_PATH": str(NODE)}
    done = subprocess.run([NODE / "node", TESTS / "two_trials.js"], env=environment, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def test_nnis_manager_gives_parameters_to_whichever_trial_asks_first():
    assert who_got_which() == {"one": "of two", "two": "of one"}
    with own_parameters():
        assert who_got_which() == {"one": "of one", "two": "of two"}


def report(model, folder):
    """Be a trial: take a while, say what it is and which arch it got, and fail if it is the first that runs this one.

    The arch whose first widths are 4 and 4 fails when it is run first.
    """
    import random
    import time

    import nni
    from nni.runtime.env_vars import trial_env_vars

    code = model.frozen_arch.code
    time.sleep(random.random())
    nni.report_intermediate_result(value_of(code))
    time.sleep(2 * random.random())
    with (folder / f"{trial_env_vars.NNI_TRIAL_JOB_ID}.{code}").open("x"):
        pass
    if code.startswith("4-4-") and len(list(folder.glob(f"*.{code}"))) == 1:
        raise ZeroDivisionError
    nni.report_final_result({"default": value_of(code), "arch": code})


def value_of(code):
    return float(sum(place * int(width) for place, width in enumerate(code.split("-"), 1)))


def test_two_trials_at_once_have_their_own_parameters_and_the_one_that_fails_is_run_once_more(tmp_path, caplog):
    space, ran = tiny_space(), tmp_path / "ran"
    ran.mkdir()
    config = RetiariiExeConfig("local", trial_concurrency=2, max_trial_number=5)
    config.experiment_working_directory = tmp_path / "experiments"
    strategy = Random(seed=0)
    run = RetiariiExperiment(space, FunctionalEvaluator(report, folder=ran), strategy, config)
    with caplog.at_level(logging.WARNING):
        try:
            assert run.run(port=free_port())
            trials = run.list_trial_jobs()
            models = {space.arch(model.sample).code: model.metric for model in strategy.list_models()}
        finally:
            run.stop()
    got = dict(path.name.split(".") for path in ran.iterdir())
    assert {trial.trialJobId: trial.hyperParameters[0].parameters["code"] for trial in trials} == got
    (failed,) = [code for code in set(got.values()) if code.startswith("4-4-")]
    assert sorted(got.values()) == sorted([*set(got.values()), failed]) and len(got) == 5
    assert sorted(trial.status for trial in trials) == ["FAILED", *["SUCCEEDED"] * 4]
    for trial in trials:
        reported = [metric.data for metric in trial.finalMetricData or []]
        code = got[trial.trialJobId]
        assert reported == ([] if trial.status == "FAILED" else [{"default": value_of(code), "arch": code}])
    assert models == run.scores() == {code: value_of(code) for code in got.values()}
    assert run.failures() == {failed: 1}
    assert f"the trial of {failed} failed, and is run once more" in caplog.messages
    assert f"1 trial(s) failed: {failed}" in caplog.messages
