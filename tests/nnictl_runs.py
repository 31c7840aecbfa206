"""`nni-consistency nnictl` and NNI's real manager, run to the end by a test, on a free port of this machine."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import psutil
import requests
from helpers import free_port, listening_addresses


def nnictl_experiment(config, home):
    """Run nnictl with a configuration, give the address of its manager, and leave no process of it behind."""
    return running(["create", "--config", config], home)


@contextmanager
def running(words, home):
    """Run nnictl with words that start an experiment; see `nnictl_experiment`."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"HOME": str(home), "PATH": programs, "OMP_NUM_THREADS": "1"}
    port = free_port()
    command = [sys.executable, "-m", "nni_nas_consistency", "nnictl", *words, "--port", str(port)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"http://127.0.0.1:{port}" in done.stdout and done.stdout.count("http://") == 1
        assert listening_addresses(port) == {"127.0.0.1"}
        yield f"http://127.0.0.1:{port}/api/v1/nni"
    finally:
        stop_experiments(home, environment)


def stop_experiments(home, environment):
    """Stop what nnictl has started from a home folder."""
    manifest = home / "nni-experiments" / ".experiment"
    started = json.loads(manifest.read_text()) if manifest.exists() else {}
    managers = [psutil.Process(each["pid"]) for each in started.values() if psutil.pid_exists(each["pid"])]
    processes = managers + [child for manager in managers for child in manager.children(recursive=True)]
    try:
        for name in started:
            subprocess.run(["nnictl", "stop", name], env=environment, stdout=subprocess.DEVNULL, timeout=90)
    finally:
        _, left = psutil.wait_procs(processes, timeout=20)
        for process in left:
            process.kill()
    assert not left, f"{left} outlived nnictl stop"


def get(api, what):
    answer = requests.get(f"{api}/{what}", timeout=20)
    answer.raise_for_status()
    return answer.json()
