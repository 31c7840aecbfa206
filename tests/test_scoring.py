"""The plain scorer against scores computed by hand on extracted subnets."""

import pytest
import torch
from helpers import BOTH_SHORTCUTS, random_archs, random_batch, tiny_supernet
from torch.optim.swa_utils import update_bn

from nni_nas_consistency.images.augmentation import DIGITS_TEST
from nni_nas_consistency.images.datasets import digits
from nni_nas_consistency.images.transforms import normalise
from nni_nas_consistency.scoring.plain import Scoring, score_archs, score_network, score_one_by_one
from nni_nas_consistency.supernet.active import logits_of, active_subnet
from nni_nas_consistency.training.lightning import image_scoring

TEST = [random_batch(size, seed) for seed, size in enumerate((8, 8, 5))]
TRAIN = [random_batch(size, seed) for seed, size in enumerate((6, 6, 3), 10)]
EVERY_METRIC = pytest.mark.parametrize("metric", ["loss", "acc"])
BN = ("supernet", "train", "test", "batch")
EVERY_BN = pytest.mark.parametrize("bn", BN)


def guessing_supernet(shortcut="projection"):
    """Return a supernet whose archs predict different classes, so that their accuracies differ."""
    supernet = tiny_supernet(shortcut=shortcut).train()
    with torch.no_grad():
        logits = [logits_of(supernet, TEST[0][0], arch) for arch in random_archs(supernet.domain, 5, seed=3)]
        supernet.stages[-1].linear.bias -= torch.cat(logits).mean(0)
    return supernet


def scoring(metric="loss", bn="batch"):
    return Scoring(metric, bn, lambda: iter(TEST), lambda: iter(TRAIN))


@torch.no_grad()
def by_hand(supernet, arch, metric, bn):
    """Extract the subnet, give it its statistics, run it, and compute the score from its logits."""
    alone = supernet.freeze(supernet.sample(arch))
    if bn in ("train", "test"):
        update_bn([images for images, _ in (TRAIN if bn == "train" else TEST)], alone)
    alone.train(bn == "batch")
    logits = torch.cat([alone(images) for images, _ in TEST])
    labels = torch.cat([labels for _, labels in TEST])
    if metric == "acc":
        return sum(int(row.argmax()) == int(label) for row, label in zip(logits, labels, strict=True)) / len(labels)
    probabilities = logits.exp() / logits.exp().sum(1, keepdim=True)
    return float(probabilities[range(len(labels)), labels].log().sum()) / len(labels)


@EVERY_METRIC
@EVERY_BN
@BOTH_SHORTCUTS
def test_a_score_from_the_supernet_is_that_of_the_extracted_subnet(metric, bn, shortcut):
    supernet = guessing_supernet(shortcut)
    archs = [supernet.largest, supernet.smallest, *random_archs(supernet.domain, 5, seed=3)]
    scores = list(score_archs(supernet, archs, scoring(metric, bn)))
    assert scores == pytest.approx([by_hand(supernet, arch, metric, bn) for arch in archs], rel=1e-12)
    assert len(set(scores)) > 2


@EVERY_METRIC
@EVERY_BN
def test_a_score_of_an_extracted_subnet_is_that_from_the_supernet(metric, bn):
    supernet = tiny_supernet()
    for arch in random_archs(supernet.domain, 3, seed=4):
        alone = supernet.freeze(supernet.sample(arch))
        (score,) = score_archs(supernet, [arch], scoring(metric, bn))
        assert score_network(alone, scoring(metric, bn)) == score


def test_the_four_kinds_of_statistics_give_four_scores():
    supernet = tiny_supernet()
    scores = {bn: next(score_archs(supernet, [supernet.largest], scoring("loss", bn))) for bn in BN}
    assert len(set(scores.values())) == 4


@EVERY_BN
def test_scoring_leaves_the_supernet_as_it_was(bn):
    supernet = tiny_supernet().train()
    supernet.stages[2].bn.eval()
    active_subnet(supernet, supernet.smallest)
    tensors = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    modes = [module.training for module in supernet.modules()]
    momenta = [norm.momentum for norm in supernet.modules() if hasattr(norm, "momentum")]
    generator = torch.get_rng_state()

    def unchanged():
        assert supernet.active.widths == supernet.sample(supernet.smallest)
        assert supernet.active.masks is None
        assert [module.training for module in supernet.modules()] == modes
        assert [norm.momentum for norm in supernet.modules() if hasattr(norm, "momentum")] == momenta
        assert not [name for name, tensor in supernet.state_dict().items() if not torch.equal(tensor, tensors[name])]
        assert all(parameter.grad is None for parameter in supernet.parameters())
        assert torch.equal(torch.get_rng_state(), generator)

    for _ in score_archs(supernet, random_archs(supernet.domain, 3), scoring("loss", bn)):
        unchanged()
    nothing = Scoring("loss", bn, lambda: iter([]), lambda: iter(TRAIN))
    with pytest.raises(ValueError, match="no images"):
        list(score_archs(supernet, [supernet.largest], nothing))
    unchanged()


def test_scoring_records_no_graph():
    supernet, recorded = tiny_supernet(), []
    supernet.register_forward_hook(lambda module, inputs, logits: recorded.append(logits.requires_grad))
    list(score_archs(supernet, [supernet.smallest], scoring("loss", "train")))
    assert recorded == [False] * (len(TRAIN) + len(TEST))


def test_progress_reports_the_mean_over_the_images_so_far():
    supernet = tiny_supernet()
    reported = []
    final = score_network(supernet, scoring("loss", "supernet"), report=reported.append)
    each = [
        score_network(supernet, Scoring("loss", "supernet", lambda batch=batch: [batch])) * len(batch[1])
        for batch in TEST
    ]
    assert reported == pytest.approx([each[0] / 8, sum(each[:2]) / 16, sum(each) / 21], rel=1e-12)
    assert final == reported[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("top1", "batch"), "metric is 'top1'; allowed are loss, acc$"),
        (("loss", "running"), "bn is 'running'; allowed are supernet, train, test, batch$"),
        (("loss", "train"), "bn='train' needs training batches to estimate the statistics from"),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Scoring(*arguments, test=lambda: iter(TEST))


def test_blocks_are_scored_arch_by_arch_in_order():
    supernet, told = tiny_supernet(), []
    archs = random_archs(supernet.domain, 5)
    blocks = list(score_one_by_one(supernet, [archs[:2], archs[2:]], scoring(), advance=told.append))
    assert [len(block) for block in blocks] == [2, 3]
    assert blocks[0] + blocks[1] == list(score_archs(supernet, archs, scoring()))
    assert told == [1] * 5


def test_mirrored_images_and_other_orders_are_scored_as_further_batches():
    images = digits(train=False).first(50)
    settings = {"batch_size": 20, "dtype": torch.float64}
    plain, mirrored, shuffled, all_of_it = (
        list(image_scoring(images, DIGITS_TEST, **settings, **views).test())
        for views in ({}, {"flip": True}, {"orders": 2}, {"orders": 2, "flip": True})
    )
    assert [len(y) for _, y in all_of_it] == 4 * [20, 20, 10]
    x, y = (torch.cat(parts) for parts in zip(*plain, strict=True))
    assert torch.equal(x, normalise(images.x, DIGITS_TEST).double()) and torch.equal(y, images.y)
    for batch, (flipped, labels) in zip(plain, mirrored[3:], strict=True):
        assert torch.equal(flipped, batch[0].flip(-1)) and torch.equal(labels, batch[1])
    moved, labels = (torch.cat(parts) for parts in zip(*shuffled[3:], strict=True))
    assert not torch.equal(moved, x)
    place = [int((x == image).flatten(1).all(1).nonzero()[0, 0]) for image in moved]
    assert len(set(place)) > 45 and torch.equal(y[place], labels)  # a few digits are the same image twice
    assert torch.equal(all_of_it[9][0], all_of_it[3][0].flip(-1))


def test_the_score_over_several_views_is_their_mean():
    supernet, images = tiny_supernet(), digits(train=False).first(40)
    arch, settings = random_archs(supernet.domain, 1)[0], {"batch_size": 20, "dtype": torch.float64}

    def score(scored):
        return next(score_archs(supernet, [arch], scored))

    both = score(image_scoring(images, DIGITS_TEST, **settings, orders=2))
    batches = list(image_scoring(images, DIGITS_TEST, **settings, orders=2).test())
    alone = [score(Scoring("loss", "batch", lambda part=part: iter(part))) for part in (batches[:2], batches[2:])]
    assert alone[0] != alone[1]
    assert both == pytest.approx(sum(alone) / 2, rel=1e-12)
