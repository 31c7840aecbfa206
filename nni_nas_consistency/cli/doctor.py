"""`nni-consistency doctor`: what is installed, and whether it works together."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import typer

PACKAGES = (
    "nni-nas-consistency",
    "nni",
    "torch",
    "torchvision",
    "pytorch-lightning",
    "setuptools",
    "numpy",
    "scipy",
    "scikit-learn",
)
IMPORTS = {
    "torchvision with this torch": "torchvision.ops",
    "NNI's model spaces": "nni.nas.nn.pytorch",
    "NNI's one-shot strategies": "nni.nas.oneshot.pytorch.strategy",
    "NNI's experiments": "nni.nas.experiment",
    "nnictl (needs setuptools < 81)": "nni.tools.nnictl.nnictl",
    "SandwichStrategy": "nni_nas_consistency.strategies.oneshot",
}


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Args:
        what: What was checked.
        ok: Whether it is fine.
        detail: What was found, and what to do if it is not fine.
    """

    what: str
    ok: bool
    detail: str


def doctor() -> None:
    """Check the installation: versions, the imports that NNI needs, nnictl, the device."""
    findings = diagnose()
    for finding in findings:
        print(f"{'ok  ' if finding.ok else 'BAD '} {finding.what}: {finding.detail}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def diagnose() -> list[Finding]:
    """Return the results of all checks."""
    return [*_versions(), *(_imported(what, module) for what, module in IMPORTS.items()), _nnictl(), _device()]


def _versions() -> Iterator[Finding]:
    ok = (3, 10) <= sys.version_info[:2] <= (3, 12)
    found = platform.python_version()
    yield Finding("python", ok, found if ok else f"{found}; NNI 3.0 runs on 3.10 to 3.12")
    for package in PACKAGES:
        try:
            yield Finding(package, True, version(package))
        except PackageNotFoundError:
            yield Finding(package, False, f"not installed; pip install {package}")


def _imported(what: str, module: str) -> Finding:
    try:
        import_module(module)
    except (ImportError, RuntimeError, AttributeError, TypeError, OSError) as error:
        return Finding(what, False, f"{module} cannot be imported ({error}); install its package again")
    return Finding(what, True, "can be imported")


def _nnictl() -> Finding:
    found = shutil.which("nnictl", path=str(Path(sys.executable).parent)) or shutil.which("nnictl")
    return Finding("nnictl", found is not None, found or "not on the PATH; pip install nni==3.0")


def _device() -> Finding:
    try:
        torch = import_module("torch")
    except ImportError as error:
        return Finding("device", False, f"torch cannot be imported ({error})")
    found = torch.cuda.is_available()
    return Finding("device", True, torch.cuda.get_device_name() if found else f"cpu, {torch.get_num_threads()} threads")
