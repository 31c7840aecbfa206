"""Regularized evolution on a trained supernet, by NNI's own strategy in this process."""

import random

import pytest
import torch
from helpers import keep_nni_in, tiny_supernet

from nni_nas_consistency import image_scoring, read_scores, save_supernet, score_archs
from nni_nas_consistency.images.augmentation import DIGITS_TEST
from nni_nas_consistency.images.datasets import digits
from nni_nas_consistency.search.evolution import Evolution, best_of, search

POPULATION = 8


@pytest.fixture(autouse=True)
def nni_writes_to_a_temporary_folder(tmp_path, monkeypatch):
    keep_nni_in(tmp_path, monkeypatch)


def few_digits():
    """Return a scoring on three batches, the last one smaller."""
    return image_scoring(digits(train=False).first(50), DIGITS_TEST, batch_size=20)


def plain_scores(archs, scoring):
    return [score.of(scoring.metric) for score in score_archs(tiny_supernet(torch.float32), archs, scoring)]


def evolved(path, *, seed=0, trials=30, progress=lambda archs: None):
    """Return the best arch, and the score file."""
    supernet = tiny_supernet(torch.float32)
    scores = search(
        supernet,
        few_digits(),
        Evolution(POPULATION),
        out=path,
        trials=trials,
        seed=seed,
        provenance={"seed": seed},
        progress=progress,
    )
    return best_of(scores), read_scores(path, supernet.codec)


def test_evolution_writes_every_arch_it_scored_and_returns_the_best(tmp_path):
    calls = []
    best, written = evolved(tmp_path / "scores.json", progress=calls.append)
    assert calls == [1] * 30
    assert list(written.scores) == [f"arch{index}" for index in range(1, 31)]
    assert written.provenance["seed"] == 0 and written.provenance["population"] == POPULATION
    archs, scores = zip(*written.scores.values(), strict=True)
    assert plain_scores(archs, few_digits()) == list(scores)
    assert best == archs[scores.index(max(scores))]
    assert len(set(archs)) == 30


def test_evolution_mutates_a_few_choices_of_an_arch_of_the_population(tmp_path):
    _, written = evolved(tmp_path / "scores.json")
    archs = [tuple(arch.choices.values()) for arch, _ in written.scores.values()]

    def distance(one, other):
        return sum(a != b for a, b in zip(one, other, strict=True))

    for index in range(POPULATION, 30):
        population = archs[index - POPULATION : index]
        assert min(distance(archs[index], parent) for parent in population) <= 5
    random_ones = archs[:POPULATION]
    assert min(distance(random_ones[-1], other) for other in random_ones[:-1]) > 5


def test_evolution_depends_on_its_seed_alone(tmp_path):
    random.seed(1)
    first = evolved(tmp_path / "first.json", seed=1, trials=16)
    random.seed(2)
    torch.manual_seed(2)
    assert evolved(tmp_path / "second.json", seed=1, trials=16) == first
    assert evolved(tmp_path / "other.json", seed=2, trials=16)[1].scores != first[1].scores


def test_an_interrupted_evolution_writes_nothing(tmp_path):
    def interrupt(archs):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evolved(tmp_path / "scores.json", progress=interrupt)
    assert not (tmp_path / "scores.json").exists()


def test_the_search_command_prints_the_best_arch_and_on_standard_error_its_progress(tmp_path, monkeypatch, capsys):
    from nni_nas_consistency.cli.main import main

    supernet = tiny_supernet(torch.float32)
    save_supernet(tmp_path / "supernet.safetensors", supernet, {"made": "for a test"})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nni_nas_consistency.cli.console.SECONDS_WORTH_A_LINE", 0.0)
    words = ["search", "--space", "digits", "--data", "digits", "--images", "50"]
    words += ["--checkpoint", "supernet.safetensors", "--trials", "6", "--population", "3"]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith("6/6 archs, ")
    assert printed.err.count("\n") == 1

    written = read_scores(tmp_path / "searched.json", supernet.codec)
    assert written.provenance["checkpoint"] == {"made": "for a test"}
    assert len(written.scores) == 6
    archs, scores = zip(*written.scores.values(), strict=True)
    scoring = image_scoring(digits(train=False).first(50), DIGITS_TEST)
    assert plain_scores(archs, scoring) == pytest.approx(list(scores), rel=1e-6)
    assert printed.out == f"searched.json\nbest: {archs[scores.index(max(scores))].code}\n"
