"""What is broken in NNI's manager, and in how NNI starts it: workarounds for managers that are started inside a block.

Apart from the others in `workarounds.py`, since neither torch nor NNI's experiment classes are needed. Run as a module,
this is `nnictl` with those that its own process needs; the variables for the manager are those of its environment.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import as_file, files

from nni.experiment import launcher

REPORTS = "NNI_NAS_CONSISTENCY_REPORTS"
"""Environment variable with the address to which trials of other machines report; assets/localhost.js reads it."""

WEB_PAGE = "Web portal URLs:"
"""How NNI's line about the addresses of its web page begins."""

COLOUR = "${CYAN}"
"""What NNI has before the first of them."""


@contextmanager
def localhost_only(reports: str | None = None) -> Iterator[None]:
    """Bind an NNI manager that is started inside the block to 127.0.0.1; also one that `nnictl` starts.

    NNI's manager serves its web page and REST API on all network interfaces, without a password. Child processes
    inherit the change through the environment variable NODE_OPTIONS. Can go with
    `test_nnis_manager_listens_on_all_interfaces_unless_it_is_bound_to_this_machine`.

    Args:
        reports: The address of this machine to which trials of other machines report, `nniManagerIp`; there the port
            after the web page's listens. None: no trials run on other machines.
    """
    with _loaded_before_manager("localhost.js"), _environment({REPORTS: reports}):
        yield


@contextmanager
def own_parameters() -> Iterator[None]:
    """Let trials that begin together have their own parameters; also those of a manager that `nnictl` starts.

    NNI's manager gives the parameters that it holds to whichever trial asks first, so that two trials may run with each
    other's: then its database, its page and its exports have their results swapped. And a grid search that `nnictl
    resume` goes on with gives the parameters of trials that are run again to others too, in place of those that are
    left. Can go with `test_nnis_manager_gives_parameters_to_whichever_trial_asks_first` (tests/test_swaps.py) and
    `test_after_kill_9_of_the_manager_nnictl_resume_loses_no_shard_and_counts_none_twice` (tests/test_examples.py).
    """
    with _loaded_before_manager("trial_parameters.js"):
        yield


@contextmanager
def _loaded_before_manager(asset: str) -> Iterator[None]:
    """Let NNI's manager, which runs in Node, load a script of ours before itself."""
    with as_file(files("nni_nas_consistency") / "assets" / asset) as script:
        options = f'{os.environ.get("NODE_OPTIONS", "")} --require "{script}"'.strip()
        with _environment({"NODE_OPTIONS": options}):
            yield


@contextmanager
def _environment(variables: Mapping[str, str | None]) -> Iterator[None]:
    """Set environment variables, or remove those that are None; put all back on exit."""
    before = {name: os.environ.get(name) for name in variables}
    try:
        _set_environment(variables)
        yield
    finally:
        _set_environment(before)


def _set_environment(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def patient_start() -> Iterator[None]:
    """Wait a minute for an NNI manager that is started inside the block; NNI gives it up after four seconds.

    On a busy machine it takes longer to come up. Can go with `test_a_manager_that_is_slow_to_start_is_waited_for`.
    """
    check = launcher._check_rest_server
    before = check.__defaults__
    check.__defaults__ = (60, None)
    try:
        yield
    finally:
        check.__defaults__ = before


@contextmanager
def bound_address_only() -> Iterator[None]:
    """Let NNI print the address of its web page that `localhost_only` leaves, and not those of all interfaces.

    Can go with `test_trials_of_the_local_training_service_score_what_trials_in_this_process_do`.
    """
    logger = logging.getLogger("nni.experiment")

    def rewritten(record: logging.LogRecord) -> bool:
        if isinstance(record.msg, str) and record.msg.startswith(WEB_PAGE):
            words = record.msg.replace(COLOUR, "").split()
            bound = [f"{COLOUR}{word}" for word in words if "//127.0.0.1:" in word]
            record.msg = " ".join([WEB_PAGE, *dict.fromkeys(bound)])
        return True

    logger.addFilter(rewritten)
    try:
        yield
    finally:
        logger.removeFilter(rewritten)


def nnictl() -> None:
    """Run NNI's nnictl with the words of the command line."""
    from nni.tools.nnictl.nnictl import parse_args

    sys.argv[0] = "nnictl"
    with patient_start(), bound_address_only():
        parse_args()


if __name__ == "__main__":
    nnictl()
