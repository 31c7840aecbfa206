"""The plain scorer against scores computed by hand on extracted subnets, for every space."""

import pytest
import torch
from helpers import BOTH_SHORTCUTS, random_archs, random_batch, tiny_supernet
from scoring_chains import BN, random_batches
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from nni_nas_consistency.errors import InputError
from nni_nas_consistency.scoring.plain import score_archs, score_network, score_one_by_one
from nni_nas_consistency.scoring.scoring import Score, Scoring
from nni_nas_consistency.spaces.hub import domain_of
from nni_nas_consistency.supernet.active import active_subnet, logits_of
from nni_nas_consistency.supernet.make import make_supernet
from nni_nas_consistency.supernet.nni_modules import frozen_subnet
from spaces import EVERY_SPACE

TEST = [random_batch(size, seed) for seed, size in enumerate((8, 8, 5))]
TRAIN = [random_batch(size, seed) for seed, size in enumerate((6, 6, 3), 10)]
EVERY_BN = pytest.mark.parametrize("bn", BN)


def scoring(metric="loss", bn="batch"):
    return Scoring(metric, bn, lambda: iter(TEST), lambda: iter(TRAIN))


def guessing_supernet(shortcut="projection"):
    """Return a supernet whose archs predict different classes, so that their accuracies differ."""
    supernet = tiny_supernet(shortcut=shortcut).train()
    with torch.no_grad():
        logits = [logits_of(supernet, TEST[0][0], arch) for arch in random_archs(supernet.domain, 5, seed=3)]
        supernet.links[-1].linear.bias -= torch.cat(logits).mean(0)
    return supernet


@torch.no_grad()
def by_hand(alone, bn, test, train):
    """Give an extracted subnet its statistics, run it, and compute both metrics from its logits."""
    if bn in ("train", "test"):
        update_bn([images for images, _ in (train if bn == "train" else test)], alone)
    alone.eval()
    for module in alone.modules():
        if isinstance(module, _BatchNorm):
            module.train(bn == "batch")
    logits = torch.cat([alone(images) for images, _ in test])
    labels = torch.cat([labels for _, labels in test])
    right = sum(int(row.argmax()) == int(label) for row, label in zip(logits, labels, strict=True))
    probabilities = logits.exp() / logits.exp().sum(1, keepdim=True)
    return float(probabilities[range(len(labels)), labels].log().sum()) / len(labels), right / len(labels)


def check_by_hand(scores, expected, rel=1e-12):
    assert [score.loss for score in scores] == pytest.approx([loss for loss, _ in expected], rel=rel)
    assert [score.acc for score in scores] == [acc for _, acc in expected]


@EVERY_BN
@BOTH_SHORTCUTS
def test_a_score_from_the_supernet_is_that_of_the_extracted_subnet(bn, shortcut):
    supernet = guessing_supernet(shortcut)
    archs = [supernet.largest, supernet.smallest, *random_archs(supernet.domain, 5, seed=3)]
    scores = list(score_archs(supernet, archs, scoring(bn=bn)))
    check_by_hand(scores, [by_hand(supernet.freeze(supernet.sample(arch)), bn, TEST, TRAIN) for arch in archs])
    assert len({score.loss for score in scores}) == 7
    assert len({score.acc for score in scores}) > 2


@pytest.mark.parametrize("case", EVERY_SPACE, ids=str)
def test_a_score_from_the_supernet_of_any_space_is_that_of_the_extracted_subnet(case):
    torch.manual_seed(0)
    supernet = make_supernet(case.make()).double()
    shape = case.images().shape[1:]
    test, train = random_batches(shape, (3,), seed=1), random_batches(shape, (2,), seed=2)
    archs = random_archs(domain_of(supernet), 2, seed=1)
    for bn in ("batch", "train"):
        expected = []
        for arch in archs:
            alone = supernet.freeze(supernet.sample(arch)) if case.is_chain else frozen_subnet(supernet, arch.sample)
            expected.append(by_hand(alone, bn, test, train))
        how = Scoring("loss", bn, lambda: test, lambda: train)  # noqa: B023 - used within this pass
        check_by_hand(list(score_archs(supernet, [archs[0], archs[1].sample], how)), expected, rel=1e-9)
        assert expected[0][0] != expected[1][0]


@EVERY_BN
def test_a_score_of_an_extracted_subnet_is_that_from_the_supernet(bn):
    supernet = tiny_supernet()
    for arch in random_archs(supernet.domain, 3, seed=4):
        alone = supernet.freeze(supernet.sample(arch))
        (score,) = score_archs(supernet, [arch], scoring(bn=bn))
        assert score_network(alone, scoring(bn=bn)) == score


def test_the_four_kinds_of_statistics_give_four_scores():
    supernet = tiny_supernet()
    scores = {bn: next(score_archs(supernet, [supernet.largest], scoring(bn=bn))) for bn in BN}
    assert len({score.loss for score in scores.values()}) == 4


@EVERY_BN
def test_scoring_leaves_the_supernet_as_it_was(bn):
    supernet = tiny_supernet().train()
    supernet.links[2].conv2.bn.eval()
    with active_subnet(supernet, supernet.smallest):
        run = supernet.active.run
        tensors = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
        modes = [module.training for module in supernet.modules()]
        momenta = [norm.momentum for norm in supernet.modules() if isinstance(norm, nn.BatchNorm2d)]
        generator = torch.get_rng_state()

        def check_unchanged():
            assert supernet.active.run is run
            assert [module.training for module in supernet.modules()] == modes
            assert [norm.momentum for norm in supernet.modules() if isinstance(norm, nn.BatchNorm2d)] == momenta
            changed = [name for name, now in supernet.state_dict().items() if not torch.equal(now, tensors[name])]
            assert not changed
            assert all(parameter.grad is None for parameter in supernet.parameters())
            assert torch.equal(torch.get_rng_state(), generator)

        for _ in score_archs(supernet, random_archs(supernet.domain, 3), scoring(bn=bn)):
            check_unchanged()
        nothing = Scoring("loss", bn, lambda: iter([]), lambda: iter(TRAIN))
        with pytest.raises(ValueError, match="no images"):
            list(score_archs(supernet, [supernet.largest], nothing))
        check_unchanged()


def test_scoring_records_no_graph():
    supernet, recorded = tiny_supernet(), []
    supernet.register_forward_hook(lambda module, inputs, logits: recorded.append(logits.requires_grad))
    list(score_archs(supernet, [supernet.smallest], scoring(bn="train")))
    assert recorded == [False] * (len(TRAIN) + len(TEST))


def test_the_mean_score_over_the_images_so_far_is_reported_after_every_batch():
    supernet = guessing_supernet()
    reported = []
    final = score_network(supernet, scoring(bn="supernet"), report=reported.append)
    means = []
    for end in (1, 2, 3):
        so_far = Scoring("loss", "supernet", lambda end=end: iter(TEST[:end]))
        means.append(score_network(supernet, so_far))
    assert [score.loss for score in reported] == pytest.approx([score.loss for score in means], rel=1e-12)
    assert [score.acc for score in reported] == [score.acc for score in means]
    assert len({score.loss for score in reported}) == 3
    assert final == reported[-1]


def test_segments_are_scored_arch_by_arch_in_order():
    supernet, calls = tiny_supernet(), []
    archs = random_archs(supernet.domain, 5)
    segments = list(score_one_by_one(supernet, [archs[:2], archs[2:]], scoring(), progress=calls.append))
    assert [len(segment) for segment in segments] == [2, 3]
    assert segments[0] + segments[1] == list(score_archs(supernet, archs, scoring()))
    assert calls == [1] * 5


def test_a_score_is_asked_for_by_metric():
    score = Score(loss=-1.5, acc=0.25)
    assert (score.of("loss"), score.of("acc")) == (-1.5, 0.25)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("top1", "batch"), "^metric is 'top1'; allowed are loss, acc$"),
        (("loss", "running"), "^bn is 'running'; allowed are supernet, train, test, batch$"),
        (("loss", "train"), "^bn='train' needs training batches to estimate the statistics from$"),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Scoring(*arguments, test=lambda: iter(TEST))
