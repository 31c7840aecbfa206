"""`nni-consistency doctor`: what is installed, whether it works together, and which NNI managers others can reach."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from ipaddress import ip_address
from pathlib import Path

import psutil
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
    """Check versions, imports, nnictl and the device, and find NNI managers that other machines can reach."""
    findings = diagnose()
    for finding in findings:
        print(f"{'ok  ' if finding.ok else 'BAD '} {finding.what}: {finding.detail}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def diagnose() -> list[Finding]:
    """Return the results of all checks."""
    imported = [_imported(what, module) for what, module in IMPORTS.items()]
    return [*_versions(), *imported, _nnictl(), _device(), *_managers()]


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


def _managers() -> list[Finding]:
    """Return where each running NNI manager listens; those of other users can be looked into by root only."""
    findings = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            addresses = _listening(process) if _is_manager(words) else {}
        except psutil.Error:  # it has ended meanwhile, or belongs to another user
            continue
        for port, hosts in sorted(addresses.items()):
            findings.append(_manager(process.pid, _experiment(words), port, hosts))
    return findings or [Finding("NNI managers", True, "none is running")]


def _is_manager(words: list[str]) -> bool:
    """Return whether a command line is that of NNI's manager: `…/nni_node/node … …/nni_node/main.js --port …`."""
    return any(Path(word).parts[-2:] == ("nni_node", "main.js") for word in words)


def _experiment(words: list[str]) -> str | None:
    options = dict(zip(words, words[1:], strict=False))
    return options.get("--experiment-id")


def _listening(process: psutil.Process) -> dict[int, set[str]]:
    """Return the addresses that a process listens on, by port."""
    addresses: dict[int, set[str]] = {}
    for connection in process.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN:
            addresses.setdefault(connection.laddr.port, set()).add(connection.laddr.ip)
    return addresses


def _manager(pid: int, experiment: str | None, port: int, hosts: set[str]) -> Finding:
    what = f"NNI manager {pid}, experiment {experiment or 'unknown'}"
    if all(ip_address(host).is_loopback for host in hosts):
        return Finding(what, True, f"port {port} of this machine only")
    where = "all interfaces" if any(ip_address(host).is_unspecified for host in hosts) else ", ".join(sorted(hosts))
    stop = f"`kill {pid}`" if experiment is None else f"`nnictl stop {experiment}` (or `kill {pid}`)"
    remedy = f"stop it by {stop}, and start it by `nni-consistency nnictl`, which binds it to this machine"
    return Finding(what, False, f"port {port} of {where}, without a password; {remedy}")
