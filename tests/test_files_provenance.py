import platform
from importlib.metadata import version

from nni_nas_consistency.files.provenance import provenance


def test_provenance_names_the_command_the_machine_and_the_versions():
    facts = provenance(["nni-consistency", "rank", "scores.json"])
    assert facts["command"] == "nni-consistency rank scores.json"
    assert platform.machine() in facts["machine"]
    assert facts["python"] == platform.python_version()
    packages = list(facts)[3:]
    assert packages == ["nni-nas-consistency", "nni", "torch", "numpy", "scipy"]
    assert [facts[package] for package in packages] == [version(package) for package in packages]
