"""Trials on another machine by NNI's remote service over SSH: shards and evolution; here it is this machine."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import nni_node
import psutil
import pytest
import torch
import yaml
from helpers import free_port, keep_nni_in, random_archs, tiny_space, tiny_supernet, wait_for
from nni.nas.evaluator import FunctionalEvaluator
from nni.nas.strategy import RegularizedEvolution
from ssh_server import needs_sshd, ssh_server
from test_examples import RELEASED, ROOT, get, nnictl_experiment, results

from nni_nas_consistency import RetiariiExeConfig, RetiariiExperiment, image_scoring, jobs, save_supernet, score_subnet
from nni_nas_consistency.archs.codecs import DIGITS_CODEC
from nni_nas_consistency.cli.nnictl import reports_to
from nni_nas_consistency.files.arch_lists import Entry, write_released
from nni_nas_consistency.files.score_files import read_scores
from nni_nas_consistency.images.augmentation import DIGITS_TEST
from nni_nas_consistency.images.datasets import digits
from nni_nas_consistency.nni3.manager import localhost_only
from nni_nas_consistency.scoring.plain import score_network
from nni_nas_consistency.systems import DIGITS_8, EMBEDDED_BENCHMARK


@pytest.fixture
def folder(tmp_path):
    """A folder that both machines see, with a supernet and a list; what the other one keeps of NNI is removed."""
    supernet = tiny_supernet(torch.float32)
    save_supernet(tmp_path / "supernet.safetensors", supernet, {"seed": 0})
    archs = {f"arch{i}": arch for i, arch in enumerate(random_archs(supernet.domain, 65), 1)}
    write_released(tmp_path / "list.json", {name: Entry(arch, 0) for name, arch in archs.items()})
    before = set(remote_folders())
    yield tmp_path
    for path in set(remote_folders()) - before:
        shutil.rmtree(path)


def remote_folders():
    return list(Path("/tmp/nni-experiments").glob("*"))


def processes_of(experiment):
    """Return the processes of an experiment on the other machine, which name it in their command or their folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(experiment in word for word in [*process.cmdline(), process.cwd()]):
                found.append(process)
        except psutil.Error:  # it has just ended
            continue
    return found


def remote_search(folder, server, shards):
    """Write remote.yml of the example for two shards on our server; return its path."""
    config = yaml.safe_load((RELEASED / "remote.yml").read_text())
    config["searchSpace"]["shard"]["_value"] = list(range(1, shards + 1))
    config["maxTrialNumber"] = shards
    config["trialCodeDirectory"] = str(folder / "code")
    config["nniManagerIp"] = "127.0.0.1"
    config["trainingService"]["machineList"] = [server.machine()]
    command = re.sub(r"--shards \d+", f"--shards {shards} --images 50", config["trialCommand"])
    config["trialCommand"] = (
        re.sub(r" --data-root \S+", "", command)
        .replace("/shared/", f"{folder}/")
        .replace("Track1_final_archs.json", "list.json")
    )
    (folder / "code").mkdir()
    shutil.copy(RELEASED / "trial.py", folder / "code")
    path = folder / "remote.yml"
    path.write_text(yaml.safe_dump(config))
    return path


@needs_sshd
def test_shards_scored_over_ssh_merge_to_what_one_process_writes(folder):
    (folder / "ssh").mkdir()
    with ssh_server(folder / "ssh", PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1") as server:
        search = remote_search(folder, server, shards=2)
        with nnictl_experiment(search, folder) as api:
            wait_for(lambda: get(api, "check-status")["status"] == "DONE", seconds=240)
            trials, metrics = get(api, "trial-jobs"), get(api, "metric-data")
            experiment = get(api, "experiment")["id"]
        wait_for(lambda: not processes_of(experiment), seconds=20)

    assert [trial["status"] for trial in trials] == ["SUCCEEDED"] * 2
    merged = read_scores(folder / "scores.json", DIGITS_CODEC)
    assert sorted(shard for shard in results(trials, metrics)) == [1, 2]
    job = jobs.ScoreJob(
        EMBEDDED_BENCHMARK,
        DIGITS_8,
        folder / "supernet.safetensors",
        folder / "list.json",
        folder / "here.json",
        images=50,
    )
    jobs.score(job)
    assert read_scores(folder / "here.json", DIGITS_CODEC).scores == merged.scores
    assert not list(folder.glob("*.journal*"))


@needs_sshd
@pytest.mark.slow
def test_evolution_over_ssh_scores_what_this_process_does(folder, monkeypatch):
    home, code = folder / "home", folder / "code"
    for each in (home, code, folder / "ssh"):
        each.mkdir()
    keep_nni_in(home, monkeypatch)
    (code / "search.py").touch()  # NNI sends the current folder, and cannot send an empty one
    monkeypatch.chdir(code)
    evaluator = FunctionalEvaluator(
        score_subnet,
        scoring=lambda: image_scoring(digits(train=False).first(50), DIGITS_TEST, batch_size=20),
        checkpoint=str(folder / "supernet.safetensors"),
    )
    strategy = RegularizedEvolution(population_size=2, sample_size=2, seed=0)
    with ssh_server(folder / "ssh", PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1") as server:
        config = RetiariiExeConfig("remote", trial_concurrency=1, max_trial_number=3, nni_manager_ip="127.0.0.1")
        config.training_service.reuse_mode = True
        config.training_service.machine_list = [machine_of(server)]
        config.experiment_working_directory = home
        experiment = RetiariiExperiment(tiny_space(), evaluator, strategy, config)
        try:
            assert experiment.run(port=free_port())
            models = list(strategy.list_models(sort=False))
        finally:
            experiment.stop()
        wait_for(lambda: not processes_of(experiment.id), seconds=20)

    supernet = tiny_supernet(torch.float32)
    scoring = image_scoring(digits(train=False).first(50), DIGITS_TEST, batch_size=20)
    assert len(models) == 3
    for model in models:
        assert model.metric == score_network(supernet.freeze(model.sample), scoring).of("loss")


def machine_of(server):
    from nni.experiment.config import RemoteMachineConfig

    named = server.machine()
    return RemoteMachineConfig(
        host=named["host"],
        port=named["port"],
        user=named["user"],
        ssh_key_file=named["sshKeyFile"],
        python_path=named["pythonPath"],
    )


# Where the manager listens.

LISTEN = """
const { Server } = require("net");
const servers = [54321, { port: 54322 }, { port: 54323 }].map((port) => new Server().listen(port));
Promise.all(servers.map((each) => new Promise((done) => each.on("listening", done)))).then(() => {
  console.log(JSON.stringify(servers.map((each) => each.address().address)));
  process.exit(0);
});
"""


@pytest.mark.parametrize(("reports", "addresses"), [(None, ["127.0.0.1"] * 3), ("127.0.0.2", None)])
def test_only_the_port_that_trials_of_other_machines_report_to_is_bound_to_the_managers_address(
    tmp_path, reports, addresses
):
    port = free_port()
    script = tmp_path / "listen.js"
    script.write_text(
        LISTEN.replace("54321", str(port)).replace("54322", str(port + 1)).replace("54323", str(port + 2))
    )
    node = Path(nni_node.__path__[0]) / "node"
    with localhost_only(reports):
        done = subprocess.run([node, script, "--port", str(port)], capture_output=True, text=True, timeout=30)
    assert json.loads(done.stdout) == (addresses or ["127.0.0.1", "127.0.0.2", "127.0.0.1"]), done.stderr


def test_the_managers_address_is_read_from_a_configuration_whose_trials_run_elsewhere(tmp_path):
    config = yaml.safe_load((RELEASED / "remote.yml").read_text())
    path = tmp_path / "search.yml"
    for change, address in [
        ({}, "10.0.0.1"),
        ({"trainingService": [{"platform": "local"}, {"platform": "remote"}]}, "10.0.0.1"),
        ({"trainingService": {"platform": "local"}}, None),
        ({"nniManagerIp": None}, None),
    ]:
        path.write_text(yaml.safe_dump(config | change))
        assert reports_to(["create", "--config", str(path), "--port", "8080"]) == address
    path.write_text("{")
    assert reports_to(["create", "-c", str(path)]) is None
    assert reports_to(["create", "-c", str(tmp_path / "none")]) is None
    assert reports_to(["stop", "--all"]) is None
