"""`nni-consistency doctor` and `nnictl`: where real managers of NNI listen, and what is said about it."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import nni_node
import psutil
import yaml
from command import run
from helpers import free_port, listening_addresses, wait_for

from nni_nas_consistency.nni3.manager import localhost_only

THIS_MACHINE = {"127.0.0.1"}
EVERYWHERE = {"::"}


def doctor_about(process, monkeypatch, code):
    """Return what doctor says about one process; other managers may run on this machine."""
    monkeypatch.setattr(psutil, "process_iter", lambda: [process])
    lines = run("doctor", code=code).out.splitlines()
    return [line for line in lines if "NNI manager" in line]


@contextmanager
def manager(folder, port, experiment):
    """Start NNI's manager as NNI itself does, and give its process; it has no experiment to run yet."""
    node = Path(nni_node.__path__[0])
    options = {"port": port, "experiment-id": experiment, "action": "create", "mode": "local", "log-level": "info"}
    options |= {"experiments-directory": folder, "python-interpreter": sys.executable}
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    process = subprocess.Popen([node / "node", node / "main.js", *words], stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: listening_addresses(port) != set(), seconds=60)
        yield process
    finally:
        process.kill()
        process.wait()


def test_doctor_finds_nothing_wrong_here_and_exits_1_where_something_is(monkeypatch):
    monkeypatch.setattr(psutil, "process_iter", lambda: [])  # what else runs on this machine
    lines = run("doctor").out.splitlines()
    assert len(lines) > 10 and all(line.startswith("ok") for line in lines)
    assert lines[-1] == "ok   NNI managers: none is running"
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert "BAD  nnictl: not on the PATH" in run("doctor", code=1).out


def test_doctor_names_a_manager_that_other_machines_can_reach_and_how_to_stop_it(tmp_path, monkeypatch):
    port = free_port()
    with manager(tmp_path, port, "open1234") as process:
        assert listening_addresses(port) == {"::"}
        lines = doctor_about(psutil.Process(process.pid), monkeypatch, code=1)
    assert lines == [
        f"BAD  NNI manager {process.pid}, experiment open1234: port {port} of all interfaces, without a password; "
        f"stop it by `nnictl stop open1234` (or `kill {process.pid}`), and start it by `nni-consistency nnictl`, which "
        "binds it to this machine"
    ]


def test_doctor_has_nothing_against_a_manager_of_this_machine_only(tmp_path, monkeypatch):
    port = free_port()
    with localhost_only(), manager(tmp_path, port, "private1") as process:
        lines = doctor_about(psutil.Process(process.pid), monkeypatch, code=0)
    assert lines == [f"ok   NNI manager {process.pid}, experiment private1: port {port} of this machine only"]


def test_doctor_passes_over_what_ends_while_it_looks_and_what_belongs_to_others(monkeypatch):
    class Other:
        """Stands for a process of another user, who tests that run as root do not have."""

        pid = 1

        def __init__(self, words):
            self.words = words

        def cmdline(self):
            return self.words

        def net_connections(self, kind):
            raise psutil.AccessDenied(self.pid)

    ended = subprocess.Popen(["true"])
    gone = psutil.Process(ended.pid)
    ended.wait()
    others = [gone, Other(["/opt/nni_node/node", "/opt/nni_node/main.js", "--port", "8080"]), Other(["vim", "main.js"])]
    monkeypatch.setattr(psutil, "process_iter", lambda: others)
    assert run("doctor").out.splitlines()[-1] == "ok   NNI managers: none is running"


# nnictl


def experiment_in(folder, monkeypatch):
    """Write an experiment of one trial that does nothing, and let NNI keep itself in a folder."""
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    config = {
        "searchSpace": {"x": {"_type": "choice", "_value": [1]}},
        "trialCommand": "true",
        "trialConcurrency": 1,
        "maxTrialNumber": 1,
        "tuner": {"name": "Random"},
        "trainingService": {"platform": "local"},
    }
    (folder / "experiment.yml").write_text(yaml.safe_dump(config))
    return folder / "experiment.yml"


@contextmanager
def started_from(folder):
    """Give the manager that nnictl starts in the block; end it and its children by their process ids."""
    manifest = folder / "nni-experiments" / ".experiment"

    def managers():
        started = json.loads(manifest.read_text()).values() if manifest.exists() else []
        return [psutil.Process(each["pid"]) for each in started if psutil.pid_exists(each["pid"])]

    try:
        yield managers
    finally:
        for process in [each for root in managers() for each in (*root.children(recursive=True), root)]:
            process.kill()
            process.wait(20)


def test_nnictl_of_ours_binds_an_experiment_to_this_machine(tmp_path, monkeypatch, capfd):
    config, port = experiment_in(tmp_path, monkeypatch), free_port()
    with started_from(tmp_path) as managers:
        run("nnictl", "create", "--config", config, "--port", port)
        assert listening_addresses(port) == {"127.0.0.1"}
        (line,) = doctor_about(*managers(), monkeypatch, code=0)
    assert line.endswith(f"port {port} of this machine only")
    assert f"http://127.0.0.1:{port}" in capfd.readouterr().out


def test_nnictl_by_itself_lets_everyone_in(tmp_path, monkeypatch):
    config, port = experiment_in(tmp_path, monkeypatch), free_port()
    with started_from(tmp_path) as managers:
        plain = [sys.executable, "-m", "nni.tools.nnictl.nnictl", "create", "--config", config, "--port", str(port)]
        subprocess.run(plain, check=True, stdout=subprocess.DEVNULL, timeout=120)
        assert listening_addresses(port) == {"::"}
        (line,) = doctor_about(*managers(), monkeypatch, code=1)
    assert f"port {port} of all interfaces, without a password; stop it by `nnictl stop " in line


def test_help_of_nnictl_says_what_ours_adds_and_passes_every_word_on(capfd):
    assert "binds the web page\nof what it starts to 127.0.0.1" in run("nnictl", "--help").out
    assert capfd.readouterr().out.startswith("usage: nnictl [-h] [--version]")
    assert not run("nnictl", "create", "--help").out
    assert capfd.readouterr().out.startswith("usage: nnictl create [-h] --config CONFIG [--port PORT]")
    assert not run("nnictl", "create", "--no-such-word", code=2).out
    assert "nnictl create: error" in capfd.readouterr().err
