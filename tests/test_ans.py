"""Recipe ans: five phases, pools, distillation on a pool, and training that begins with a later phase."""

import json
import shutil
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from command import run
from helpers import keep_nni_in, random_archs
from safetensors.torch import load_file

from nni_nas_consistency import jobs
from nni_nas_consistency.archs.codecs import DIGITS_CODEC
from nni_nas_consistency.archs.domains import DIGITS
from nni_nas_consistency.archs.pool import Pool
from nni_nas_consistency.errors import InputError
from nni_nas_consistency.files.arch_lists import Entry, read_released, write_released
from nni_nas_consistency.files.pools import read_pool
from nni_nas_consistency.images.augmentation import CIFAR100_ANS
from nni_nas_consistency.supernet.sharing import Sharing
from nni_nas_consistency.systems import DIGITS_8, EMBEDDED_BENCHMARK
from nni_nas_consistency.training.recipes import ANS, ANS_DIGITS, EMBEDDED, NAZARICK
from nni_nas_consistency.training.supernet import sampler_of

STEPS = 391


@pytest.fixture(scope="module", autouse=True)
def nni_home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        keep_nni_in(tmp_path_factory.mktemp("home"), patch)
        yield


# The recipe as it was published

PUBLISHED = [
    (250, 0.025, 0.0, 5e-4, "uniform", None, "multi-path"),
    (30, 1e-3, 5e-4, 0.0, "pool", 200, "multi-path"),
    (30, 1e-3, 5e-4, 0.0, "pool", 200, "pool-distillation"),
    (30, 4e-3, 5e-4, 0.0, "pool", 200, "pool-distillation"),
    (20, 3.5e-3, 5e-4, 0.0, "pool", 100, "pool-distillation"),
]


@pytest.mark.parametrize("phase", range(5))
def test_each_phase_is_as_published(phase):
    of_phase = ANS.phases[phase]
    plan = of_phase.optimization
    rates = (plan.epochs, plan.lr, plan.end_lr, plan.weight_decay)
    assert (*rates, of_phase.sampling, of_phase.pool_size, of_phase.rule) == PUBLISHED[phase]
    assert (plan.batch_size, plan.momentum, of_phase.n, of_phase.grad_clip) == (128, 0.9, 6, None)
    assert (plan.warmup_steps, plan.warmup_epochs, plan.drop_last, of_phase.augmentation) == (0, 0, False, CIFAR100_ANS)
    assert (ANS.init, ANS.stem_norm, len(ANS.phases)) == ("kaiming-fan-out", "plain", 5)
    assert (CIFAR100_ANS.cutout, CIFAR100_ANS.brightness, CIFAR100_ANS.contrast) == (16, 0, 0)


@pytest.mark.parametrize("phase", range(5))
def test_the_rate_of_a_phase_is_at_its_peak_in_epochs_0_and_1_and_falls_towards_its_end(phase):
    plan = ANS.phases[phase].optimization
    rates = [plan.lr * plan.lr_factor(epoch * STEPS, STEPS) for epoch in range(plan.epochs + 2)]
    assert rates[0] == rates[1] == plan.lr
    assert all(later < earlier for earlier, later in zip(rates[1:], rates[2:], strict=False))
    assert rates[1 + plan.epochs // 2] == pytest.approx((plan.lr + plan.end_lr) / 2)
    assert rates[plan.epochs + 1] == pytest.approx(plan.end_lr)


def test_a_rate_that_would_rise_is_refused_and_one_of_zero_stays_zero():
    plan = ANS.phases[1].optimization
    with pytest.raises(InputError, match=r"^end_lr is 0\.0005, above lr, 0\.0001, which falls to it; lower --set end"):
        replace(plan, lr=1e-4).check()
    assert replace(plan, lr=0.0, end_lr=0.0).lr_factor(5 * STEPS, STEPS) == pytest.approx(0.96, abs=0.01)


# Five phases at toy size

SMALL = {"train_images": 96, "val_images": 20, "device": "cpu", "checkpoint_steps": 1}


def toy(n=2, pool_size=5):
    """Return recipe ans with three steps a phase on digits."""
    phases = [replace(phase.for_epochs(1), n=n) for phase in ANS_DIGITS.phases]
    return replace(ANS_DIGITS, phases=(phases[0], *(replace(phase, pool_size=pool_size) for phase in phases[1:])))


def job_in(folder, recipe=None, **settings):
    return jobs.TrainJob(EMBEDDED_BENCHMARK, DIGITS_8, recipe or toy(), folder, **(SMALL | settings))


def pool_file(path, archs, weights=None):
    write_released(path, {f"arch{index}": Entry(arch, 0) for index, arch in enumerate(archs, 1)})
    if weights is not None:
        content = json.loads(path.read_text())
        for entry, weight in zip(content.values(), weights, strict=True):
            entry["weight"] = weight
        path.write_text(json.dumps(content))
    return path


def silent(line):
    """Write nothing."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    jobs.train(job_in(folder), write=silent)
    return folder


def same_weights(one, other):
    expected, actual = load_file(one), load_file(other)
    return expected.keys() == actual.keys() and all(torch.equal(actual[name], expected[name]) for name in expected)


class Killed(BaseException):
    pass


def killed_after(steps):
    """Return a way to show progress that kills the training when so many steps are done."""
    done = []

    @contextmanager
    def show(total, what):
        def advance(more):
            done.append(more)
            if len(done) == steps:
                raise Killed

        yield advance

    return show


def goes_on_to_the_end(whole, folder):
    """Return whether a run goes on with phase 3, and ends with the weights of one that was not killed."""
    assert not (folder / "supernet.safetensors").exists() and not (folder / "phase4").exists()
    lines = []
    jobs.train(job_in(folder), write=lines.append)
    trained = [line.partition("  ")[0] for line in lines] == ["epoch 1/1 of phase 3", "epoch 1/1 of phase 4"]
    return trained and same_weights(whole / "supernet.safetensors", folder / "supernet.safetensors")


def test_a_run_that_was_killed_within_phase_3_goes_on_to_the_same_weights(whole, tmp_path):
    with pytest.raises(Killed):
        jobs.train(job_in(tmp_path), progress=killed_after(3 * 3 + 2), write=silent)
    assert torch.load(tmp_path / "phase3" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 1
    assert goes_on_to_the_end(whole, tmp_path)


def test_a_run_that_was_killed_between_two_phases_goes_on_to_the_same_weights(whole, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    for phase in ("phase3", "phase4"):
        shutil.rmtree(tmp_path / phase)
    (tmp_path / "supernet.safetensors").unlink()
    assert goes_on_to_the_end(whole, tmp_path)


def test_each_phase_keeps_its_end_and_moves_the_weights(whole):
    ends = [whole / f"phase{phase}" / "supernet.safetensors" for phase in range(4)] + [whole / "supernet.safetensors"]
    assert not any(same_weights(*pair) for pair in zip(ends[:-1], ends[1:], strict=True))
    assert not (whole / "phase4" / "supernet.safetensors").exists()
    archs = whole / "list.json"
    pool_file(archs, random_archs(DIGITS, 3))
    score = ("--images", 20, "--archs", archs, "--out", whole / "scores.json")
    run("score", "--checkpoint", ends[1], *score)
    made_by = json.loads((whole / "scores.json").read_text())["provenance"]["checkpoint"]
    assert (made_by["phase"], made_by["recipe"], made_by["phase1_epochs"]) == (1, "ans-digits", 1)


WORDS = ("train", "--space", "digits", "--recipe", "ans-digits", "--epochs", 1, "--n", 2, "--checkpoint-steps", 1)
WORDS += ("--train-images", 96, "--val-images", 20, "--device", "cpu", "--set", "pool_size=5")
WORDS += ("--set", "phase3_epochs=1", "--set", "phase3_n=2", "--set", "phase3_pool_size=5")


@pytest.mark.parametrize("weights", ["a run", "its phase"])
def test_training_that_begins_with_phase_3_ends_as_the_one_that_had_all(whole, tmp_path, weights):
    start = whole if weights == "a run" else whole / "phase2" / "supernet.safetensors"
    run(*WORDS, "--from-phase", 3, "--weights", start, "--out", tmp_path)
    assert same_weights(whole / "supernet.safetensors", tmp_path / "supernet.safetensors")
    assert sorted(path.name for path in tmp_path.glob("phase*")) == ["phase3", "phase4"]
    error = run(*WORDS, "--from-phase", 4, "--weights", start, "--out", tmp_path, code=2).error
    assert error.endswith("--set phase3_epochs=1: --from-phase 4 leaves phase 3 out")


def test_the_seed_draws_the_pools_that_are_not_given(whole, tmp_path):
    one_phase, weights = replace(toy(), phases=toy().phases[1:2]), whole / "phase0" / "supernet.safetensors"
    trained = [
        jobs.train(job_in(tmp_path / str(seed), one_phase, weights=weights, seed=seed), write=silent) for seed in (0, 1)
    ]
    assert same_weights(trained[0], whole / "phase1" / "supernet.safetensors")
    assert not same_weights(*trained)
    settings = json.loads((whole / "settings.json").read_text())
    assert (settings["phase1_pool_size"], settings["phase4_pool_size"], settings["stem_norm"]) == (5, 5, "plain")
    assert "phase0_pool_size" not in settings and "phase1_pool" not in settings


# Pools


def moved(before, after, name):
    """Return which elements of a tensor differ between two checkpoints."""
    return load_file(before)[name] != load_file(after)[name]


def test_a_phase_trains_the_archs_of_its_pool_alone_and_the_largest_where_that_teaches(whole, tmp_path):
    recipe = toy(n=1).from_phase(1)
    small, wide = (pool_file(tmp_path / f"{arch.code}.json", [arch]) for arch in (DIGITS.smallest, DIGITS.largest))
    weights = whole / "phase0" / "supernet.safetensors"
    pools = {"pool": small, "phase_pools": {4: wide}}
    jobs.train(job_in(tmp_path / "run", recipe, weights=weights, **pools), write=silent)
    ends = [weights, *(tmp_path / "run" / f"phase{phase}" / "supernet.safetensors" for phase in (1, 2, 3))]
    kernel = "links.18.conv2.conv.weight"
    on_pool, distilled = moved(ends[0], ends[1], kernel), moved(ends[1], ends[2], kernel)
    assert not on_pool[1:].any() and not on_pool[:, 1:].any() and on_pool[0, 0].any()  # smallest: one channel
    assert distilled[1:].any()
    digests = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert digests["phase1_pool"] == digests["phase3_pool"] != digests["phase4_pool"]


def test_another_pool_is_another_run(tmp_path):
    recipe = replace(toy(), phases=(replace(toy().phases[1], pool_size=None),))
    archs = random_archs(DIGITS, 4)
    pool = pool_file(tmp_path / "pool.json", archs)
    jobs.train(job_in(tmp_path / "run", recipe, pool=pool), write=silent)
    lines = []
    renamed = pool_file(tmp_path / "renamed.json", archs)
    jobs.train(job_in(tmp_path / "run", recipe, pool=renamed), write=lines.append)  # the same pool
    assert lines and "is trained already" in lines[0]
    pool_file(pool, archs, [1, 1, 1, 2])
    with pytest.raises(InputError, match=r"holds a run with pool '[0-9a-f]{64}', not '[0-9a-f]{64}'"):
        jobs.train(job_in(tmp_path / "run", recipe, pool=pool), write=silent)


def test_a_pool_file_is_an_arch_list_whose_archs_may_have_a_weight(tmp_path):
    archs = random_archs(DIGITS, 3)
    assert read_pool(pool_file(tmp_path / "a.json", archs), DIGITS) == Pool(tuple(archs))
    weighted = pool_file(tmp_path / "b.json", archs, [0, 2.5, 1])
    assert read_pool(weighted, DIGITS) == Pool(tuple(archs), (0.0, 2.5, 1.0))
    content = json.loads(weighted.read_text())
    del content["arch1"]["weight"]
    weighted.write_text(json.dumps(content))
    assert read_pool(weighted, DIGITS).weights == (1.0, 2.5, 1.0)


def test_a_phase_draws_its_pool_in_file_order_first_or_by_weights():
    archs = random_archs(DIGITS, 6)
    phase, generator = ANS_DIGITS.phases[1], torch.Generator().manual_seed(0)
    sampler = sampler_of(phase, DIGITS, generator, pool=Pool(tuple(archs)))
    assert sampler.draw(4) + sampler.draw(2) == archs
    second = sampler.draw(6)
    assert second != archs and set(second) == set(archs)
    only = sampler_of(phase, DIGITS, generator, pool=Pool(tuple(archs), (0, 0, 0, 0, 3, 0)))
    assert set(only.draw(20)) == {archs[4]}


def test_archs_pool_takes_every_nth_arch_of_a_list_or_random_ones(tmp_path):
    archs = random_archs(DIGITS, 20)
    path, out = pool_file(tmp_path / "list.json", archs), tmp_path / "pool.json"
    words = ("archs", "pool", path, "--space", "digits", "--out", out)
    assert run(*words, "--every", 5).out == f"{out}: 4 of the 20 archs of {path}\n"
    names = ["arch1", "arch6", "arch11", "arch16"]
    assert list(read_released(out, DIGITS_CODEC)) == names
    assert [entry.arch for entry in read_released(out, DIGITS_CODEC).values()] == archs[::5]
    assert "holds something else" in run(*words, "--random", 4, code=2).error
    drawn = {}
    for seed in (0, 1):
        run(*words, "--random", 7, "--seed", seed, "--overwrite")
        drawn[seed] = list(read_released(out, DIGITS_CODEC))
        run(*words, "--random", 7, "--seed", seed)
        assert list(read_released(out, DIGITS_CODEC)) == drawn[seed]
        assert len(set(drawn[seed])) == 7
    assert drawn[0] != drawn[1]


def test_pools_and_phases_that_do_not_fit_are_refused_in_python_too(tmp_path):
    pool = pool_file(tmp_path / "pool.json", random_archs(DIGITS, 4))
    for settings, message in (
        ({"recipe": EMBEDDED, "pool": pool}, "recipe digits draws from no pool"),
        ({"phase_pools": {0: pool}}, "phase 0 draws from no pool, but these do: 1, 2, 3, 4"),
        ({"recipe": toy(pool_size=None)}, "phase 1 of recipe ans-digits draws from a pool; give one with --pool"),
    ):
        with pytest.raises(InputError, match=message):
            jobs.train(job_in(tmp_path / "run", **settings))
    with pytest.raises(InputError, match="recipe nazarick has the phases 0 to 0, no phase 1"):
        NAZARICK.from_phase(1)
    assert not (tmp_path / "run").exists()


# The stem


@pytest.mark.parametrize("sharing", ["bn=full", "conv=end,bn=end"])
@pytest.mark.parametrize("stem_norm", ["plain", "affine"])
def test_scale_and_shift_of_the_stem_learn_only_where_they_are_affine(tmp_path, stem_norm, sharing):
    recipe = replace(EMBEDDED, stem_norm=stem_norm)
    recipe = replace(recipe, phases=(replace(ANS_DIGITS.phases[0].for_epochs(1), n=2),))
    job = job_in(tmp_path, recipe, sharing=Sharing.parse(sharing))
    weights = load_file(jobs.train(job, write=silent))
    kept = {name: (tensor == name.endswith("weight")).all() for name, tensor in weights.items() if is_norm(name)}
    stem = [bool(kept[name]) for name in kept if name.startswith("links.0.")]
    assert stem and all(stem) == (stem_norm == "plain")
    assert not all(kept.values())


def is_norm(name):
    """Return whether a tensor is the scale or the shift of a batch norm."""
    return ".bn." in name and name.endswith(("weight", "bias"))
