"""Two test processes share two cores, and each starts processes of its own: one thread each."""

import os
import runpy

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session")
def cifar100_root(tmp_path_factory):
    """Return the folder that holds the real CIFAR-100, built once for all test processes; skip without shared data."""
    from codes import shared_data
    from filelock import FileLock

    build = runpy.run_path(str(shared_data("cifar100", "build.py")))
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    root = folder / "cifar100"
    with FileLock(f"{root}.lock"):
        if not (root / "built").exists():
            build["main"](root)
            (root / "built").touch()
    return root
