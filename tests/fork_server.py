"""A server that forks: torch and NNI are imported once, and a command starts in milliseconds instead of five seconds.

A program of its own, because a process that has threads must not be forked. Every child calls `main(words)`, and can be
killed like any process. Requests and answers are one JSON object a line: {"words", "folder", "log", "die"} starts a
command and answers with its process id, {"wait": pid} waits for its end. `die` is [function of os, end of a path, n]:
SIGKILL in the n-th call of that function on such a file.
"""

import json
import os
import signal
import sys
import traceback

WATCHED = ("replace", "write", "fsync")


def serve():
    """Answer requests until standard input ends."""
    import_all()
    assert len(os.listdir("/proc/self/task")) == 1, "a process with threads must not be forked"
    answer({"ready": os.getpid()})
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer({"code": os.waitstatus_to_exitcode(status)})
        elif pid := os.fork():
            answer({"pid": pid})
        else:
            become(**request)


def import_all():
    import nni_nas_consistency.cli.main
    import nni_nas_consistency.ranking.report
    import nni_nas_consistency.scoring.arch_list
    import nni_nas_consistency.scoring.images
    import nni_nas_consistency.search.evolution
    import nni_nas_consistency.training.reference
    import nni_nas_consistency.training.supernet  # noqa: F401
    from nni_nas_consistency.images.datasets import digits

    digits(train=True)  # imports scikit-learn


def answer(what):
    print(json.dumps(what), flush=True)


def become(words, folder, log, die):
    """Be the command, to the end of this process."""
    code = 70
    try:
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if die:
            setattr(os, die[0], deadly(getattr(os, die[0]), *die))
        code = program(words)
    except KeyboardInterrupt:  # before the program has begun
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def program(words):
    from nni_nas_consistency import jobs
    from nni_nas_consistency.cli.main import main

    if words[0] == "train in two phases":
        jobs.train = in_two_phases(jobs.train)
        words = ["train", *words[1:]]
    return main(words)


def in_two_phases(train):
    """Return what trains twice by the same phase, once fair: as the recipe `ans` does, whose images are not at hand."""
    from dataclasses import replace

    def train_twice(job, **how):
        (phase,) = job.recipe.phases
        return train(replace(job, recipe=replace(job.recipe, phases=(phase, replace(phase, sampling="fair")))), **how)

    return train_twice


def deadly(function, name, path_end, n):
    """Return a function of os that kills this process in its n-th call on a file; half-way, where it writes."""
    calls = 0

    def called(*args, **keywords):
        nonlocal calls
        path = os.readlink(f"/proc/self/fd/{args[0]}") if isinstance(args[0], int) else str(args[-1])
        calls += path.endswith(path_end)
        if calls == n:
            if name == "write":
                function(args[0], args[1][: len(args[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **keywords)

    return called


if __name__ == "__main__":
    serve()
