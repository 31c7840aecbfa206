"""The prefix scorer against the plain one: same scores, shared stages, no more memory than there is."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from helpers import random_archs, random_batch, tiny_space, tiny_supernet
from test_scoring import EVERY_BN, EVERY_METRIC, TEST, guessing_supernet, scoring
from torch import nn

from nni_nas_consistency.errors import InputError
from nni_nas_consistency.images.augmentation import DIGITS_TEST
from nni_nas_consistency.images.datasets import digits
from nni_nas_consistency.scoring import blocks, prefix
from nni_nas_consistency.scoring.memory import Layout, image_blocks, layout_for
from nni_nas_consistency.scoring.plain import Scoring, score_archs
from nni_nas_consistency.scoring.prefix import score_prefixes
from nni_nas_consistency.supernet.active import active_subnet
from nni_nas_consistency.supernet.make import make_supernet
from nni_nas_consistency.training.lightning import image_scoring

STACKED = [Layout(1, 1), Layout(2, 1), Layout(1, 7), Layout(2, 5, multiple=4), Layout(1, 1, multiple=4)]
LAYOUTS = pytest.mark.parametrize("layout", [None, *STACKED], ids=str)


def relatives(form, n=24, seed=3):
    """Return archs whose prefixes agree over 1 to 20 layers, strangers, and two archs that are one network."""
    strangers = random_archs(form, n, seed)
    base = strangers[0].choices
    related = [form.arch(base[: 1 + i % 20] + other.choices[1 + i % 20 :]) for i, other in enumerate(strangers)]
    return [*related, *strangers[:4], form.arch((*base[:-1], 16 if base[-1] == 1 else 1))]


def scores_of(supernet, archs, how, **settings):
    return [score for block in score_prefixes(supernet, [archs], how, **settings) for score in block]


@EVERY_METRIC
@EVERY_BN
@LAYOUTS
def test_scores_are_those_of_the_plain_scorer(metric, bn, layout):
    supernet = guessing_supernet()
    archs = relatives(supernet.domain)
    plain = list(score_archs(supernet, archs, scoring(metric, bn)))
    fast = scores_of(supernet, archs, scoring(metric, bn), layout=layout)
    assert fast == pytest.approx(plain, rel=1e-10)
    assert ranked(fast) == ranked(plain)
    assert len(set(plain)) > 3


def ranked(scores):
    return sorted(range(len(scores)), key=lambda i: (round(scores[i], 12), i))


@pytest.mark.parametrize("layout", [None, Layout(4, 2)], ids=str)
def test_smaller_batches_in_the_middle_of_the_list_are_scored_as_the_plain_scorer_does(layout):
    supernet, images = guessing_supernet(), digits(train=False).first(50)
    views = image_scoring(images, DIGITS_TEST, batch_size=20, dtype=torch.float64, orders=2, flip=True)
    archs = relatives(supernet.domain, n=8)
    plain = list(score_archs(supernet, archs, views))
    assert [len(labels) for _, labels in views.test()] == [20, 20, 10] * 4
    assert scores_of(supernet, archs, views, layout=layout) == pytest.approx(plain, rel=1e-10)


@EVERY_METRIC
@EVERY_BN
def test_archs_with_identity_shortcuts_are_scored_as_the_plain_scorer_does(metric, bn):
    supernet = guessing_supernet("standalone")
    archs = relatives(supernet.domain)
    plain = list(score_archs(supernet, archs, scoring(metric, bn)))
    for layout in (None, Layout(2, 1)):
        assert scores_of(supernet, archs, scoring(metric, bn), layout=layout) == pytest.approx(plain, rel=1e-10)


@EVERY_BN
def test_in_single_precision_no_score_is_off_by_more_than_a_ten_thousandth(bn):
    supernet = tiny_supernet(torch.float32)
    batches = [random_batch(size, seed, torch.float32) for seed, size in enumerate((64, 64, 33))]
    how = Scoring("loss", bn, lambda: batches, lambda: batches[:2])
    archs = relatives(supernet.domain)
    plain = list(score_archs(supernet, archs, how))
    for layout in (Layout(), Layout(2, 4, 4)):
        assert scores_of(supernet, archs, how, layout=layout) == pytest.approx(plain, rel=1e-4)


@EVERY_BN
def test_in_half_precision_scores_are_near(bn):
    supernet = tiny_supernet(torch.float32)
    batches = [random_batch(64, seed, torch.float32) for seed in range(2)]
    halves = [(images.bfloat16(), labels) for images, labels in batches]
    archs = random_archs(supernet.domain, 6)
    exact = list(score_archs(supernet, archs, Scoring("loss", bn, lambda: batches, lambda: batches)))
    half = Scoring("loss", bn, lambda: halves, lambda: halves)
    for scores in (scores_of(supernet, archs, half), list(score_archs(supernet, archs, half))):
        assert scores == pytest.approx(exact, rel=0.1)
        assert scores != pytest.approx(exact, rel=1e-6)


def test_archs_of_several_blocks_are_scored_in_their_order():
    supernet = tiny_supernet()
    archs = relatives(supernet.domain)
    plain = list(score_archs(supernet, archs, scoring()))
    parts = list(score_prefixes(supernet, [archs[:9], archs[9:]], scoring()))
    assert [len(part) for part in parts] == [9, len(archs) - 9]
    assert [score for part in parts for score in part] == pytest.approx(plain, rel=1e-10)


def runs_of_stages(supernet, archs, **settings):
    """Return how often each stage runs, and the widths that come out of the first of the chain."""
    runs, widths = Counter(), []
    for index, stage in enumerate(supernet.stages):
        stage.register_forward_hook(lambda module, inputs, state, index=index: runs.update([index]))
    supernet.stages[0].register_forward_hook(lambda module, inputs, state: widths.append(state.shape[1]))
    scores_of(supernet, archs, Scoring("loss", "batch", lambda: TEST[:1]), **settings)
    return [runs[index] for index in range(len(supernet.stages))], widths


def test_a_stage_runs_once_for_each_prefix_before_it_at_the_widest_output():
    supernet = tiny_supernet()
    archs = relatives(supernet.domain)
    runs, widths = runs_of_stages(supernet, archs, layout=Layout())
    assert runs == [len({arch.choices[:length] for arch in archs}) for length in range(20)]
    assert runs[0] == 1 < runs[6] < runs[19] <= len(archs)
    assert widths == [max(arch.choices[0] for arch in archs)]


def test_with_identity_shortcuts_a_stage_runs_once_for_each_prefix_with_its_own_width():
    supernet = tiny_supernet(shortcut="standalone")
    archs = relatives(supernet.domain)
    runs, _ = runs_of_stages(supernet, archs)
    assert runs[:19] == [len({arch.choices[:length] for arch in archs}) for length in range(1, 20)]


def test_archs_side_by_side_run_a_stage_fewer_times():
    supernet = tiny_supernet()
    alone, _ = runs_of_stages(supernet, random_archs(supernet.domain, 32), layout=Layout())
    bundled, _ = runs_of_stages(supernet, random_archs(supernet.domain, 32), layout=Layout(bundle=8))
    assert alone[19] == 32
    assert 4 <= bundled[19] <= 8


@pytest.mark.parametrize("bn", ["batch", "train"])
def test_progress_adds_up_to_the_archs(bn):
    supernet, told = tiny_supernet(), []
    archs = relatives(supernet.domain)
    scores_of(supernet, archs, scoring("loss", bn), advance=told.append)
    assert sum(told) == pytest.approx(len(archs))
    assert len(told) >= len(TEST) and max(told) < len(archs)


@EVERY_BN
def test_scoring_leaves_the_supernet_as_it_was(bn):
    supernet = tiny_supernet().train()
    supernet.stages[2].bn.eval()
    active_subnet(supernet, [supernet.smallest, supernet.largest])
    before = supernet.active.widths, supernet.active.masks, supernet.active.scales
    tensors = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    modes = [module.training for module in supernet.modules()]
    images = [images.clone() for images, _ in TEST]
    scores_of(supernet, relatives(supernet.domain), scoring("loss", bn))
    with pytest.raises(ValueError, match="no images"):
        scores_of(supernet, [supernet.largest], Scoring("loss", bn, lambda: iter([]), lambda: iter(TEST)))
    assert (supernet.active.widths, supernet.active.masks, supernet.active.scales) == before
    assert [module.training for module in supernet.modules()] == modes
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in supernet.state_dict().items())
    assert all(torch.equal(now, then) for (now, _), then in zip(TEST, images, strict=True))


def test_a_space_that_is_no_supernet_or_has_other_batch_norms_is_refused():
    with pytest.raises(TypeError, match="batch norms that are no MutableBatchNorm2d; score it with the plain scorer"):
        scores_of(tiny_space(), [tiny_space().largest], scoring())
    supernet = tiny_supernet()
    supernet.stages[3].bn = nn.BatchNorm2d(4)
    with pytest.raises(TypeError, match="batch norms"):
        scores_of(supernet, [supernet.largest], scoring())


def test_batches_of_one_size_are_joined_and_stay_in_order():
    batches = [random_batch(size, seed) for seed, size in enumerate((4, 4, 4, 3))]
    joined = image_blocks(batches, most=2)
    assert [(block.batches, len(block.labels)) for block in joined] == [(2, 8), (1, 4), (1, 3)]
    assert torch.equal(torch.cat([block.images for block in joined]), torch.cat([images for images, _ in batches]))
    assert torch.equal(torch.cat([block.labels for block in joined]), torch.cat([labels for _, labels in batches]))


def needed_by(supernet, images):
    """Return the bytes of a walk: two states a stage of the largest net, and four more of the largest state."""
    widths = supernet.largest.choices[:19]
    sides = [8] * 7 + [4] * 6 + [2] * 6
    states = [width * side * side for width, side in zip(widths, sides, strict=True)] + [10]
    return (2 * sum(states) + 4 * max(states)) * 8 * images


def test_a_batch_that_does_not_fit_half_of_the_free_memory_is_refused(monkeypatch):
    supernet, (images, _) = tiny_supernet(), random_batch(32)
    needed = needed_by(supernet, 32)
    monkeypatch.setattr(blocks, "free_memory", lambda device: 2 * needed)
    assert layout_for(supernet, images, 10).batches == 1
    monkeypatch.setattr(blocks, "free_memory", lambda device: 2 * needed - 2)
    with pytest.raises(InputError, match="a batch of 32 images needs .* GB; .* give smaller batches"):
        layout_for(supernet, images, 10)


def test_archs_side_by_side_fit_the_memory_and_share_all_modules(monkeypatch):
    supernet, (images, _) = tiny_supernet(), random_batch(32)
    assert layout_for(supernet, images, 1).bundle > 3
    assert layout_for(tiny_supernet(shortcut="standalone"), images, 1).bundle == 1
    monkeypatch.setattr(blocks, "free_memory", lambda device: 7 * needed_by(supernet, 32))
    assert layout_for(supernet, images, 1).bundle == 3


def test_free_memory_is_that_of_the_machine():
    free = blocks.free_memory(torch.device("cpu"))
    assert 2**20 < free < 2**50


@pytest.mark.parametrize(("limit", "expected"), [("5000", 5000 - 4000 + 1500), ("max", 2**40)])
def test_free_memory_is_no_more_than_the_control_group_leaves(limit, expected, tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    contents = {"memory.max": limit, "memory.current": "4000", "memory.stat": "anon 2500\ninactive_file 1500"}
    for name, content in contents.items():
        (tmp_path / "a" / "b" / name).write_text(content + "\n")
    (tmp_path / "own").write_text("0::/a/b\n")
    monkeypatch.setattr(blocks, "OWN_GROUP", tmp_path / "own")
    monkeypatch.setattr(blocks, "CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr(blocks.psutil, "virtual_memory", lambda: SimpleNamespace(available=2**40))
    assert blocks.free_memory(torch.device("cpu")) == expected


def test_archs_with_identity_shortcuts_do_not_walk_side_by_side():
    supernet = tiny_supernet(shortcut="standalone")
    for layout in (Layout(bundle=2), Layout(multiple=4)):
        with pytest.raises(ValueError, match="archs with identity shortcuts walk alone, at their exact widths"):
            scores_of(supernet, [supernet.largest], scoring(), layout=layout)


def test_where_memory_runs_out_after_all_half_is_tried(monkeypatch):
    supernet, tried = tiny_supernet(), []
    archs = relatives(supernet.domain)
    expected = scores_of(supernet, archs, scoring())

    class Cramped(prefix.Walk):
        def __init__(self, supernet, keys, layout, block, statistics):
            tried.append(layout)
            if layout.batches * layout.bundle > fits:
                raise torch.cuda.OutOfMemoryError
            super().__init__(supernet, keys, layout, block, statistics)

    monkeypatch.setattr(prefix, "Walk", Cramped)
    fits = 2
    assert scores_of(supernet, archs, scoring(), layout=Layout(2, 4)) == pytest.approx(expected, rel=1e-10)
    assert tried[:2] == [Layout(2, 4), Layout(1, 2)]
    fits = 0
    with pytest.raises(InputError, match="does not hold one batch of images; give smaller batches"):
        scores_of(supernet, archs, scoring(), layout=Layout(2, 4))


def test_scoring_a_space_twice_gives_the_same_bits():
    supernet = make_supernet(tiny_space())
    batches = [random_batch(32, 0, torch.float32)]
    archs = relatives(supernet.domain)
    first, second = (scores_of(supernet, archs, Scoring("loss", "batch", lambda: batches)) for _ in range(2))
    assert first == second
