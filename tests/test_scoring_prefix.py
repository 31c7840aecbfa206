"""The prefix scorer against the plain one: the same scores from fewer runs of links, for every chain space."""

from collections import Counter
from dataclasses import FrozenInstanceError

import pytest
import torch
from scoring_chains import BN, CHAINS, MIXED_LINKS, archs_of, case_of, setting
from torch import nn

from nni_nas_consistency.errors import InputError
from nni_nas_consistency.images.augmentation import DIGITS_TEST
from nni_nas_consistency.images.datasets import digits
from nni_nas_consistency.scoring.images import image_scoring
from nni_nas_consistency.scoring.memory import Layout
from nni_nas_consistency.scoring.plain import score_archs
from nni_nas_consistency.scoring.prefix import score_prefixes, shares_prefixes
from nni_nas_consistency.scoring.scoring import Scoring
from nni_nas_consistency.spaces.resnet20 import ResNet20Space
from nni_nas_consistency.supernet.active import active_subnet

LAYOUTS = (None, Layout(2, 1), Layout(2, 3))
EVERY_CHAIN = pytest.mark.parametrize("case", CHAINS, ids=str)
EVERY_BN = pytest.mark.parametrize("bn", BN)
RESNET20 = case_of("chain-resnet20")
STANDALONE = case_of("chain-resnet20-standalone")


def prefix_scores(supernet, archs, how, **settings):
    return next(score_prefixes(supernet, [archs], how, **settings))


def check_equal(fast, plain):
    """Check losses to rounding, and accuracies and both rankings exactly."""
    assert [score.loss for score in fast] == pytest.approx([score.loss for score in plain], rel=1e-10)
    assert [score.acc for score in fast] == pytest.approx([score.acc for score in plain], abs=1e-12)
    for metric in ("loss", "acc"):
        assert ranking(fast, metric) == ranking(plain, metric)


def ranking(scores, metric):
    return sorted(range(len(scores)), key=lambda i: (round(scores[i].of(metric), 12), i))


@EVERY_BN
@EVERY_CHAIN
def test_both_metrics_are_those_of_the_plain_scorer_in_every_layout(case, bn):
    given = setting(case)
    archs = archs_of(given.supernet.domain, 10)
    plain = list(score_archs(given.supernet, archs, given.scoring(bn=bn)))
    assert len({score.loss for score in plain}) > 1
    for layout in LAYOUTS:
        check_equal(prefix_scores(given.supernet, archs, given.scoring(bn=bn), layout=layout), plain)


@pytest.mark.parametrize("case", [RESNET20, STANDALONE, MIXED_LINKS], ids=str)
def test_the_four_statistics_and_the_archs_give_different_scores(case):
    given = setting(case)
    archs = archs_of(given.supernet.domain, 12)
    scores = {bn: prefix_scores(given.supernet, archs, given.scoring(bn=bn)) for bn in BN}
    assert len({tuple(score.loss for score in of_bn) for of_bn in scores.values()}) == 4
    for of_bn in scores.values():
        assert len({score.loss for score in of_bn}) > 7
        assert len({score.acc for score in of_bn}) > 1


def test_a_metric_asked_for_changes_neither_of_them():
    given = setting(RESNET20)
    archs = archs_of(given.supernet.domain, 6)
    by_loss, by_acc = (prefix_scores(given.supernet, archs, given.scoring(metric)) for metric in ("loss", "acc"))
    assert by_loss == by_acc


@pytest.mark.parametrize("bn", ["batch", "train"])
def test_smaller_batches_amid_the_others_are_scored_like_the_plain_scorer(bn):
    supernet = setting(RESNET20).supernet
    images = digits(train=False).first(50)
    orders = 2 if bn == "batch" else 1
    one_channel = image_scoring(
        images, DIGITS_TEST, bn=bn, batch_size=20, dtype=torch.float64, orders=orders, flip=True, train=images
    )
    batches = [(x.expand(-1, 3, -1, -1), y) for x, y in one_channel.test()]
    assert [len(labels) for _, labels in batches] == [20, 20, 10] * 2 * orders
    views = Scoring("loss", bn, lambda: batches, lambda: batches[:4])
    archs = archs_of(supernet.domain, 6)
    plain = list(score_archs(supernet, archs, views))
    for layout in (None, Layout(4, 2)):
        check_equal(prefix_scores(supernet, archs, views, layout=layout), plain)


def test_archs_that_are_one_network_share_their_score_and_keep_their_places():
    given = setting(RESNET20)
    archs = archs_of(given.supernet.domain, 6)
    aliases = []
    for arch in archs:
        last = 1 if arch.choices["w20"] != 1 else 2
        aliases.append(given.supernet.codec.arch({**arch.choices, "w20": last}))
    together = prefix_scores(given.supernet, [*archs, *aliases], given.scoring())
    assert together[:6] == together[6:]
    check_equal(together, list(score_archs(given.supernet, [*archs, *aliases], given.scoring())))
    (once, _), (twice, _) = (
        runs_of_links(setting(RESNET20), of, layout=Layout()) for of in (archs, [*archs, *aliases])
    )
    assert once == twice


@EVERY_BN
def test_in_single_precision_no_loss_is_off_by_more_than_a_ten_thousandth(bn):
    given = setting(RESNET20, torch.float32, sizes=(16, 16, 9))
    archs = archs_of(given.supernet.domain, 6)
    plain = list(score_archs(given.supernet, archs, given.scoring(bn=bn)))
    for layout in (Layout(), Layout(2, 4)):
        fast = prefix_scores(given.supernet, archs, given.scoring(bn=bn), layout=layout)
        assert [score.loss for score in fast] == pytest.approx([score.loss for score in plain], rel=1e-4)


@EVERY_BN
def test_with_bfloat16_images_both_scorers_are_near_the_exact_scores(bn):
    given = setting(RESNET20, torch.float32, sizes=(32, 32))
    archs = archs_of(given.supernet.domain, 5)
    exact = [score.loss for score in score_archs(given.supernet, archs, given.scoring(bn=bn))]
    test, train = ([(x.bfloat16(), y) for x, y in batches] for batches in (given.test, given.train))
    half = Scoring("loss", bn, lambda: test, lambda: train)
    for scores in (prefix_scores(given.supernet, archs, half), list(score_archs(given.supernet, archs, half))):
        assert [score.loss for score in scores] == pytest.approx(exact, rel=0.1)
        assert [score.loss for score in scores] != pytest.approx(exact, rel=1e-6)


def test_segments_come_out_one_by_one_with_their_archs_in_order():
    given = setting(RESNET20)
    archs = archs_of(given.supernet.domain)
    plain = list(score_archs(given.supernet, archs, given.scoring()))
    segments = list(score_prefixes(given.supernet, [archs[:9], archs[9:]], given.scoring()))
    assert [len(segment) for segment in segments] == [9, len(archs) - 9]
    check_equal([score for segment in segments for score in segment], plain)


def runs_of_links(given, archs, **settings):
    """Return how often each link runs for one batch, and the channels that the first one puts out."""
    runs, channels = Counter(), []

    def count(index, state):
        runs[index] += 1
        if index == 0:
            channels.append(len(state[0]))

    for index, link in enumerate(given.supernet.links):
        link.register_forward_hook(lambda module, inputs, state, index=index: count(index, state))
    prefix_scores(given.supernet, archs, Scoring("loss", "batch", lambda: given.test[:1]), **settings)
    return [runs[index] for index in range(len(given.supernet.links))], channels


def expected_runs(supernet, archs):
    """Return how often each link has to run: a nested one for each prefix before it, others for each with their key."""
    runs = []
    for depth, link in enumerate(supernet.links):
        needed = set()
        for arch in archs:
            prefix = tuple(before.key(arch) for before in list(supernet.links)[:depth])
            if link.key(arch) is not None:
                needed.add(prefix if link.nested else (*prefix, link.key(arch)))
        runs.append(len(needed))
    return runs


@EVERY_CHAIN
def test_a_link_runs_once_for_each_distinct_prefix(case):
    given = setting(case)
    archs = archs_of(given.supernet.domain)
    runs, _ = runs_of_links(given, archs, layout=Layout())
    assert runs == expected_runs(given.supernet, archs)


def test_most_links_are_shared_and_a_nested_one_runs_at_the_widest_output_that_is_needed():
    given = setting(RESNET20)
    archs = [arch for arch in archs_of(given.supernet.domain, 40) if arch.choices["w1"] < 4]
    runs, channels = runs_of_links(given, archs, layout=Layout())
    assert channels == [max(arch.choices["w1"] for arch in archs)] == [3]
    assert runs[0] == 1 < runs[10] < runs[19] <= len(archs)
    assert sum(runs) < 0.7 * 20 * len(archs)


def test_archs_side_by_side_run_a_link_fewer_times():
    archs = archs_of(RESNET20.make().domain, 32)
    (alone, _), (bundled, _) = (
        runs_of_links(setting(RESNET20), archs, layout=layout) for layout in (Layout(), Layout(bundle=8))
    )
    assert alone[19] == len({tuple(arch.choices.values())[:19] for arch in archs}) > 24
    assert 4 <= bundled[19] <= 10


def test_archs_that_cannot_be_stacked_run_alone_in_any_segment_and_others_side_by_side():
    given = setting(MIXED_LINKS)
    mixed = archs_of(given.supernet.domain, 16)
    first = {**mixed[0].choices, "there1": "yes", "there2": "no", "operator": "conv3"}
    alike = [given.supernet.codec.arch({**first, "hidden1": hidden}) for hidden in (2, 4, 6)]
    wide = [given.supernet.codec.arch({**arch.choices, "width": 8 - first["width"]}) for arch in alike]
    segments = [[*alike, *wide], mixed]
    sizes = []
    given.supernet.links[-1].register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    images = given.test[:1]
    scores = list(score_prefixes(given.supernet, segments, Scoring("loss", "batch", lambda: images)))
    side_by_side, *alone = (size for size in sizes if size > 1)  # 1: the image by which memory is estimated
    assert side_by_side == 6 * 8
    assert set(alone) == {8}
    for archs, of_segment in zip(segments, scores, strict=True):
        check_equal(of_segment, list(score_archs(given.supernet, archs, Scoring("loss", "batch", lambda: images))))


def test_a_link_whose_narrower_outputs_are_no_leading_channels_is_never_cut_from_a_wider_run():
    given = setting(MIXED_LINKS)
    trailing = given.supernet.links[-2]
    base = archs_of(given.supernet.domain, 5)[0].choices
    archs = [given.supernet.codec.arch({**base, "tail": tail}) for tail in (0, 1, 2)]
    widths = []
    trailing.register_forward_hook(lambda module, inputs, x: widths.append(x.shape[1]))
    one_batch = Scoring("loss", "batch", lambda: given.test[:1])
    fast = prefix_scores(given.supernet, archs, one_batch, layout=Layout())
    assert sorted(widths) == [2, 4, 6]
    plain = list(score_archs(given.supernet, archs, one_batch))
    check_equal(fast, plain)
    trailing.nested = True  # as if it were: this is what a cut would make of the scores
    cut = prefix_scores(given.supernet, archs, one_batch, layout=Layout())
    assert cut[2].loss == pytest.approx(plain[2].loss)
    assert cut[0].loss != pytest.approx(plain[0].loss, rel=1e-3)


@pytest.mark.parametrize("case", [RESNET20, STANDALONE, MIXED_LINKS], ids=str)
@EVERY_BN
@torch.no_grad()
def test_what_a_link_runs_as_is_a_value_that_gives_the_same_output_again(case, bn):
    """Nothing calls back: with the same run, a link and its batch norms need neither scorer nor walk."""
    given = setting(case)
    recorded = []

    def record(link, inputs):
        recorded.append((link, given.supernet.active.run, [clones(state) for state in inputs]))

    def outputs_of(link, inputs, state):
        recorded[-1] += (clones(state),)

    hooks = [link.register_forward_pre_hook(record) for link in given.supernet.links]
    hooks += [link.register_forward_hook(outputs_of) for link in given.supernet.links]
    archs = archs_of(given.supernet.domain, 5)
    prefix_scores(given.supernet, archs, given.scoring(bn=bn), layout=Layout(1, 2))
    for hook in hooks:
        hook.remove()
    given.supernet.eval()
    scored = recorded[-len(recorded) // (1 if bn in ("batch", "supernet") else 2) :]
    assert len({id(run) for _, run, _, _ in scored}) == len(scored)
    for link, run, inputs, expected in reversed(scored):
        given.supernet.active.run = run
        assert same(link(*inputs), expected)
        with pytest.raises(FrozenInstanceError):
            run.statistics = None


def clones(state):
    return tuple(x.clone() for x in state) if isinstance(state, tuple) else state.clone()


def same(first, second):
    if isinstance(first, tuple):
        return all(torch.equal(x, y) for x, y in zip(first, second, strict=True))
    return torch.equal(first, second)


@EVERY_BN
def test_progress_adds_up_to_the_archs(bn):
    given, calls = setting(RESNET20), []
    archs = archs_of(given.supernet.domain)
    prefix_scores(given.supernet, archs, given.scoring(bn=bn), progress=calls.append)
    assert sum(calls) == pytest.approx(len(archs))
    assert len(calls) >= len(given.test) and max(calls) < len(archs)


@EVERY_BN
def test_scoring_leaves_the_supernet_as_it_was(bn):
    given = setting(RESNET20)
    supernet = given.supernet.train()
    supernet.links[2].conv2.bn.eval()
    with active_subnet(supernet, [supernet.smallest, supernet.largest]):
        run = supernet.active.run
        tensors = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
        modes = [module.training for module in supernet.modules()]
        images = [images.clone() for images, _ in given.test]
        generator = torch.get_rng_state()
        prefix_scores(supernet, archs_of(supernet.domain, 6), given.scoring(bn=bn))
        with pytest.raises(ValueError, match="no images"):
            prefix_scores(supernet, [supernet.largest], Scoring("loss", bn, lambda: iter([]), lambda: iter([])))
        assert supernet.active.run is run
        assert [module.training for module in supernet.modules()] == modes
        assert not [name for name, tensor in supernet.state_dict().items() if not torch.equal(tensor, tensors[name])]
        assert all(torch.equal(now, then) for (now, _), then in zip(given.test, images, strict=True))
        assert torch.equal(torch.get_rng_state(), generator)


def test_scoring_a_space_twice_gives_the_same_bits():
    given = setting(RESNET20, torch.float32)
    archs = archs_of(given.supernet.domain)
    assert prefix_scores(given.supernet, archs, given.scoring()) == prefix_scores(
        given.supernet, archs, given.scoring()
    )


class Flat(nn.Module):
    """A part of a chain that does not say what its output depends on."""

    def forward(self, x):
        return x


def test_a_link_without_a_key_and_a_batch_norm_that_is_not_elastic_are_refused():
    for spoil in (lambda links: links.append(Flat()), lambda links: setattr(links[1].conv1, "bn", nn.BatchNorm2d(4))):
        supernet = setting(RESNET20).supernet
        assert shares_prefixes(supernet)
        spoil(supernet.links)
        assert not shares_prefixes(supernet)


def test_a_space_that_is_no_supernet_is_refused():
    space = ResNet20Space(10, 3, 8, width_unit=1)
    with pytest.raises(ValueError, match=r"^the space is not a supernet: .* call make_supernet first$"):
        prefix_scores(space, [space.largest], setting(RESNET20).scoring())


@pytest.mark.parametrize("bn", ["train", "test"])
def test_without_images_to_estimate_statistics_from_both_scorers_refuse(bn):
    given = setting(RESNET20)
    nothing = Scoring("loss", bn, lambda: iter(given.test if bn == "train" else []), lambda: iter([]))
    with pytest.raises(ValueError, match="^no images to "):
        prefix_scores(given.supernet, [given.supernet.largest], nothing)
    with pytest.raises(ValueError, match="^no images to "):
        next(score_archs(given.supernet, [given.supernet.largest], nothing))


def test_where_memory_runs_out_after_all_half_is_tried():
    given = setting(RESNET20, sizes=(4, 4, 4))
    archs = archs_of(given.supernet.domain)
    plain = list(score_archs(given.supernet, archs, given.scoring()))
    tried = []

    def allocate(module, inputs):
        tried.append(len(inputs[0]))
        if len(inputs[0]) > fits:
            raise torch.cuda.OutOfMemoryError

    given.supernet.links[-1].register_forward_pre_hook(allocate)
    fits = 8
    check_equal(prefix_scores(given.supernet, archs, given.scoring(), layout=Layout(2, 4)), plain)
    assert tried[0] > fits and max(tried[1:]) <= fits
    fits = 0
    with pytest.raises(InputError, match="^the memory does not hold one batch of images; use smaller batches$"):
        prefix_scores(given.supernet, archs, given.scoring(), layout=Layout(2, 4))
