"""Studies: the same numbers as the jobs by themselves, no run twice, tables that say what was shown."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command import run
from helpers import wait_for
from scipy import stats

from nni_nas_consistency import jobs
from nni_nas_consistency.cli import parse_study
from nni_nas_consistency.errors import Diverged, InputError
from nni_nas_consistency.files.arch_lists import Entry, read_released, write_released
from nni_nas_consistency.files.locks import locked
from nni_nas_consistency.files.score_files import beside
from nni_nas_consistency.jobs import study_job
from nni_nas_consistency.studies.plots import study_plot
from nni_nas_consistency.studies.report import lines
from nni_nas_consistency.studies.results import MEASURES, Result, read_result
from nni_nas_consistency.studies.settings_file import published_studies, read_settings
from nni_nas_consistency.studies.study import PoolRule, Setting, Study
from nni_nas_consistency.studies.table import Reference, estimate, table_of
from nni_nas_consistency.systems import EMBEDDED_BENCHMARK

SETTINGS = """
title: A toy study
published: nothing.
baseline: loss
all: {recipe: digits, n: 2, distill_from: never, warmup_steps: 0}
settings:
  loss: {}
  accuracy: {metric: acc}
  running: {bn: supernet}
  unshared: {then: [{sharing: "conv=end,bn=end", lr: 0.01}]}
"""
FEW = ("--epochs", 1, "--train-images", 64, "--limit", 6, "--images", 40, "--device", "cpu")


def job_of(folder, settings=SETTINGS, **changes):
    (folder / "toy.yml").write_text(settings)
    few = {"epochs": 1, "train_images": 64, "limit": 6, "images": 40, "device": "cpu"}
    return parse_study.study_job(str(folder / "toy.yml"), folder / "out", **(few | {"seeds": 2} | changes))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A toy study of two seeds that is finished: its job, its table and what was written on the way."""
    written = []
    job = job_of(tmp_path_factory.mktemp("study"))
    return job, jobs.study(job, write=written.append), written


@pytest.fixture
def no_training(monkeypatch):
    def fail(*arguments, **settings):
        raise AssertionError("a run is repeated")

    monkeypatch.setattr(study_job, "train", fail)
    monkeypatch.setattr(study_job, "score", fail)


def test_a_row_is_a_training_a_scoring_and_a_ranking_by_the_jobs_themselves(done, tmp_path):
    job, table, _ = done
    system, data = job.system, job.data
    recipe = job.study.settings["loss"].trainings[0].recipe
    few = {"train_images": 64, "val_images": 20, "device": "cpu", "seed": 1}
    with jobs.threads(1):
        shared = jobs.train(jobs.TrainJob(system, data, recipe, tmp_path / "shared", **few))
        scoring = jobs.ScoreJob(system, data, shared, job.reference, tmp_path / "loss.json", limit=6, images=40)
        jobs.score(scoring)
        jobs.score(replace(scoring, bn="supernet", out=tmp_path / "running.json"))
        last = job.study.settings["unshared"].trainings[1]
        own = jobs.TrainJob(system, data, last.recipe, tmp_path / "own", sharing=last.sharing, weights=shared, **few)
        jobs.score(replace(scoring, checkpoint=jobs.train(own), out=tmp_path / "unshared.json"))
    files = {name: tmp_path / f"{name}.json" for name in ("loss", "running", "unshared")}
    for row in table.rows:
        scores = files.get(row.setting, beside(files["loss"], "acc"))
        consistency = jobs.rank(jobs.RankJob(system, scores, job.reference, common=True, resamples=1)).consistency
        assert [row.results[1].values[name] for name in MEASURES] == [
            getattr(consistency, name).value for name in MEASURES
        ]


def test_the_cost_is_written_before_the_first_run_then_a_line_a_run(done):
    _, _, (cost, *others) = done
    assert cost.startswith("study toy: 8 runs, 4 settings × 2 seeds; 0 are finished, 8 are left, of about ")
    assert "by a timed probe: 0:0" in cost and len(others) == 8
    assert others[0].startswith("loss, seed 0: kendall ")


def test_settings_that_differ_in_scoring_alone_share_a_training(done):
    job, _, _ = done
    trained = list((job.out / "trainings").glob("*/seed0/supernet.safetensors"))
    assert len(trained) == 2  # the shared one, and what goes on from it with kernels of its own
    assert len(list((job.out / "scores").glob("*/seed0.json"))) == 3  # loss and accuracy come from one


def test_a_finished_run_is_never_repeated_and_more_seeds_only_add(done, no_training):
    job, table, _ = done
    written = []
    again = jobs.study(job, write=written.append)
    assert [row.means for row in again.rows] == [row.means for row in table.rows] and not written
    assert jobs.study_run(job, "loss", 1) == table.rows[0].results[1]
    with pytest.raises(AssertionError, match="a run is repeated"):
        jobs.study(replace(job, seeds=3), write=written.append)


def test_a_study_that_is_interrupted_goes_on_with_the_run_that_it_was_in(tmp_path, monkeypatch):
    job = job_of(tmp_path, SETTINGS.replace("  running: {bn: supernet}\n", "  other: {lr: 0.1}\n"), seeds=1)
    train, score = jobs.train, jobs.score
    trained = []

    def killed_on_the_way(training, **settings):
        if training.out.is_relative_to(job.out) and training.out not in trained:
            trained.append(training.out)
            if len(trained) == 2:
                raise KeyboardInterrupt
        return train(training, **settings)

    monkeypatch.setattr(study_job, "train", killed_on_the_way)
    with pytest.raises(KeyboardInterrupt):
        jobs.study(job, write=lambda line: None)
    assert read_result(job.out, "loss", 0) and read_result(job.out, "accuracy", 0)
    assert read_result(job.out, "other", 0) is None

    scored = []
    monkeypatch.setattr(study_job, "score", lambda scoring, **settings: (scored.append(scoring.out), score(scoring))[1])
    table = jobs.study(job, write=lambda line: None)
    assert len([path for path in scored if path.is_relative_to(job.out)]) == 2  # other and unshared
    assert all(len(row.results) == 1 for row in table.rows)


def test_a_study_that_is_killed_keeps_the_runs_that_are_finished(tmp_path):
    job = job_of(tmp_path, SETTINGS.partition("  running")[0] + "  other: {lr: 0.1}\n", seeds=3)
    words = ["study", str(tmp_path / "toy.yml"), *map(str, FEW), "--seeds", "3", "--out", str(job.out)]
    process = subprocess.Popen([sys.executable, "-m", "nni_nas_consistency", *words], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: len(list(job.out.glob("results/*/seed*.json"))) >= 2, seconds=300)
    finally:
        process.kill()
        process.wait()
    kept = {path: path.read_bytes() for path in job.out.glob("results/*/seed*.json")}
    assert 2 <= len(kept) < 9
    table = jobs.study(job, write=lambda line: None)
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert [len(row.results) for row in table.rows] == [3, 3, 3]
    undisturbed = jobs.study(replace(job, out=tmp_path / "undisturbed", seeds=1), write=lambda line: None)
    for row, other in zip(table.rows, undisturbed.rows, strict=True):
        assert row.results[0].values == other.results[0].values


def test_a_run_that_diverges_is_a_result_that_is_told_and_not_repeated(tmp_path, monkeypatch):
    job = job_of(tmp_path, SETTINGS.partition("  running")[0] + "  huge: {lr: 1e30, grad_clip: none}\n", seeds=1)
    written = []
    table = jobs.study(job, write=written.append)
    (huge,) = table.rows[2].results
    assert "the loss of arch" in huge.failed and set(huge.values.values()) == {None}
    assert any(line.startswith("huge, seed 0: failed: ") for line in written)
    assert table.rows[2].means["kendall"] is None and "1, 1 failed" in "\n".join(lines(table))
    with monkeypatch.context() as patch:
        patch.setattr(study_job, "train", None)
        assert jobs.study_run(job, "huge", 0) == huge
    assert issubclass(Diverged, RuntimeError)


def test_the_command_shows_the_table_of_what_is_there_whoever_did_it(done, no_training, tmp_path):
    job, table, _ = done
    words = ("study", Path(job.out).parent / "toy.yml", *FEW, "--seeds", 2, "--out", job.out)
    shown = run(*words, "--show").out
    assert shown.startswith("A toy study\n") and shown.endswith(f"report: {job.out}/study.html\n")
    for line in lines(table):
        assert line in shown
    found = json.loads(run(*words, "--json").out)
    assert found == json.loads((job.out / "table.json").read_text())
    for row, written in zip(table.rows, found["rows"], strict=True):
        assert written["kendall"]["mean"]["mean"] == row.means["kendall"].mean
        assert [each["seed"] for each in written["runs"]] == [0, 1]
    page = (job.out / "study.html").read_text()
    assert all(f'<th scope="row">{name}</th>' in page for name in job.study.settings)
    more = run(*words[:-4], "--seeds", 3, "--out", job.out, "--show").out
    assert "Not finished: 8 of 12 runs." in more


def test_trials_in_one_folder_are_bound_to_one_study(done, tmp_path):
    job, _, _ = done
    other = job_of(tmp_path, SETTINGS.replace("lr: 0.01", "lr: 0.02"))
    with pytest.raises(InputError, match=r"holds a study with unshared trainings 1 lr 0.01, not 0.02; go on with"):
        jobs.study_run(replace(other, out=job.out), "loss", 7)
    with pytest.raises(InputError, match="study toy has no setting 'los'; its settings are loss, accuracy, running"):
        jobs.study_run(job, "los", 0)


def test_a_lock_can_wait_for_the_process_that_holds_it(tmp_path):
    import threading

    order = []

    def second():
        with locked(tmp_path / "lock", "", wait=True):
            order.append("second")

    with locked(tmp_path / "lock", ""):
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(0.2)
        order.append("first")
    waiting.join(20)
    assert order == ["first", "second"]


# the table


def results_of(setting, values):
    return [Result(setting, seed, dict.fromkeys(MEASURES, value)) for seed, value in values.items()]


def toy_table(**rows):
    names = list(rows)
    study = Study("toy", "A toy study", "", names[0], {name: Setting(name, ()) for name in names})
    reference = Reference(64, 16, 0.88, {"params": {"kendall": 0.67}})
    results = {name: results_of(name, values) for name, values in rows.items()}
    return table_of(study, results, reference, wanted=5, settings={})


def test_differences_are_paired_over_seeds_with_the_interval_of_scipys_paired_t_test():
    dice = np.random.default_rng(0)
    base, other = dice.normal(size=6), dice.normal(0.3, size=6)
    row = toy_table(base=dict(enumerate(base)), other=dict(enumerate(other))).rows[1]
    expected = stats.ttest_rel(other, base)
    low, high = expected.confidence_interval(0.95)
    difference = row.differences["kendall"]
    assert (difference.n, difference.low, difference.high) == (6, pytest.approx(low), pytest.approx(high))
    assert (difference.verdict == "equal") == (expected.pvalue > 0.05)
    assert row.means["kendall"].spread == pytest.approx(other.std(ddof=1))
    assert row.means["kendall"].low == pytest.approx(stats.ttest_1samp(other, 0).confidence_interval(0.95).low)


def test_a_seed_that_the_baseline_lacks_takes_no_part_in_the_difference():
    row = toy_table(base={0: 0.5, 1: 0.7}, other={0: 0.6, 1: 0.8, 4: 0.1}).rows[1]
    assert row.differences["kendall"].n == 2 and row.differences["kendall"].mean == pytest.approx(0.1)
    assert row.means["kendall"].mean == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([0.1, 0.11, 0.09], "higher"),
        ([-0.1, -0.11, -0.09], "lower"),
        ([0.1, -0.1, 0.02], "equal"),
        ([0.3], "unknown"),
        ([0.0, 0.0], "equal"),
    ],
)
def test_rows_are_equal_where_the_interval_of_their_difference_holds_nothing(values, verdict):
    assert estimate(values).verdict == verdict


def test_one_seed_shows_nothing_and_no_seed_is_no_number():
    table = toy_table(base={0: 0.5}, other={0: 0.9}, none={})
    text = lines(table)
    assert "+0.4000       unknown" in text[4] and "±" not in text[4]
    assert table.rows[2].means["kendall"] is None and "none" in text[5]
    assert estimate([]) is None


def test_the_lines_say_what_bounds_the_table():
    text = "\n".join(lines(toy_table(base={0: 0.5, 1: 0.6}, other={0: 0.9, 1: 0.7})))
    assert "two halves of their 16 seeds agree at a Kendall tau of 0.88" in text
    assert "Of 1 such intervals 0.05 would miss 0 by chance" in text and "params 0.670" in text


def test_the_figure_has_every_run_and_a_mean_for_each_row():
    table = toy_table(base={0: 0.5, 1: 0.6}, other={0: 0.9, 1: 0.7, 2: 0.8})
    (axes,) = study_plot(table).axes
    runs = sorted(tuple(point) for each in axes.collections for point in each.get_offsets().tolist())
    expected = [(0.5, 0), (0.6, 0), (0.55, 0), (0.9, 1), (0.7, 1), (0.8, 1), (0.8, 1)]
    assert np.allclose(runs, sorted(expected))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["base", "other"]
    assert {note.get_text() for note in axes.texts} >= {"baseline", "equal"}


# the published studies


def published(name, space, **changes):
    reference = None if space == "digits" else Path("reference.json")
    return parse_study.study_job(name, None, space=space, reference=reference, **changes).study


@pytest.mark.parametrize("space", ["digits", "resnet20"])
@pytest.mark.parametrize("name", sorted(published_studies()))
def test_a_published_study_has_settings_that_train_and_a_conclusion(name, space):
    study = published(name, space)
    assert study.name == name and study.published.endswith((").", "."))
    for setting in study.settings.values():
        for index, training in enumerate(setting.trainings):
            training.recipe.check(fresh=index == 0)
            assert all((phase.sampling == "pool") == (training.pool is not None) for phase in training.recipe.phases)


def test_the_study_of_sharing_has_the_eleven_published_combinations():
    settings = published("sharing", "resnet20").settings
    own = {str(setting.trainings[0].sharing) for setting in settings.values()}
    words = [("full", "full", "full"), ("full", "full", "independent"), ("front", "front", "full")]
    words += [("end", "end", "full"), ("independent", "independent", "full")]
    words += [
        pair for word in ("independent", "front", "end") for pair in ((word, "full", "full"), ("full", word, "full"))
    ]
    assert own == {f"conv={conv},bn={bn},fc={fc}" for conv, bn, fc in words} and len(own) == 11
    for name, setting in settings.items():
        (phase,) = setting.trainings[0].recipe.phases
        assert (phase.n, phase.rule, phase.distill_from, phase.optimization.epochs) == (1, "multi-path", None, 300)
        shared = "bn=full" in str(setting.trainings[0].sharing) or name.endswith("batch")
        assert setting.scoring.settings()["bn"] == ("batch" if shared else "supernet")


def test_studies_are_as_published_on_the_published_space():
    sandwich = published("sandwich", "resnet20").settings
    assert {(each.trainings[0].recipe.phases[0].n) for each in sandwich.values()} == {3, 6}
    for name, setting in sandwich.items():
        (phase,) = setting.trainings[0].recipe.phases
        assert (phase.rule == "sandwich") == ("sandwich" in name or "both" in name)
        assert (phase.distill_from == 0) == ("distillation" in name or "both" in name)
    paths = published("paths", "resnet20").settings
    assert {each.trainings[0].recipe.phases[0].n for each in paths.values()} == {3, 6, 12, 18}
    evaluation = published("evaluation", "resnet20").settings.values()
    assert len({(each.scoring.metric, each.scoring.bn) for each in evaluation}) == 8
    assert len({each.trainings for each in evaluation}) == 1
    hyper = published("hyper", "resnet20")
    phase = hyper.settings[hyper.baseline].trainings[0].recipe.phases[0]
    optimization = phase.optimization
    assert (optimization.weight_decay, phase.grad_clip, optimization.lr, optimization.epochs) == (0, 5, 0.1, 300)
    pools = [str(each.pool) for each in published("pool", "digits").settings["five phases"].trainings]
    assert pools == ["None", "every 4", "every 4", "every 4", "random 8"]


def test_shares_of_the_epochs_follow_the_option():
    study = published("unsharing", "digits", epochs=40)
    epochs = {
        name: [each.recipe.phases[0].optimization.epochs for each in own.trainings]
        for name, own in study.settings.items()
    }
    assert epochs["shared, longer"] == [40, 20] and epochs["end by way of groups"] == [40, 10, 10]
    assert epochs["end from fresh weights"] == [60]


def test_a_pool_is_taken_from_the_archs_that_are_scored(tmp_path):
    settings = "baseline: a\nall: {recipe: digits, n: 2, distill_from: never, warmup_steps: 0}\nsettings:\n"
    settings += "  a: {sampling: pool, pool: random 3}\n"
    job = job_of(tmp_path, settings, seeds=1)
    jobs.study_run(job, "a", 4)
    pool = read_released(job.out / "pools" / "random 3" / "seed4.json", EMBEDDED_BENCHMARK.codec)
    assert set(pool) == set(PoolRule(count=3).of(job.entries, 4)) and set(pool) < set(job.entries)
    (settings,) = (job.out / "trainings").glob("*/seed4/settings.json")
    assert json.loads(settings.read_text())["pool"]
    assert list(PoolRule(every=2).of(job.entries, 0)) == list(job.entries)[::2]


def test_the_reference_of_a_study_binds_its_folder(done, tmp_path):
    job, _, _ = done
    entries = job.entries
    name = next(iter(entries))
    write_released(tmp_path / "other.json", entries | {name: Entry(entries[name].arch, 0.123)})
    with pytest.raises(InputError, match="holds a study with reference "):
        jobs.study_table(replace(job, reference=tmp_path / "other.json"))


def test_the_baseline_of_a_file_may_be_any_setting(tmp_path):
    (tmp_path / "own.yml").write_text(SETTINGS.replace("baseline: loss", "baseline: running"))
    assert read_settings(tmp_path / "own.yml").baseline == "running"


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system [touch made]",
        "&a [*a]",
        "\n".join([f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" if i else "a0: &a0 x" for i in range(12)]),
    ],
    ids=["a call", "a loop", "a billion laughs"],
)
def test_a_file_of_settings_makes_nothing_and_takes_no_time(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    Path("own.yml").write_text(text)
    with pytest.raises(InputError, match="^own.yml: "):
        read_settings(Path("own.yml"))
    assert list(tmp_path.iterdir()) == [tmp_path / "own.yml"]
