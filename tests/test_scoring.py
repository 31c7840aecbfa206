"""The plain scorer against scores computed by hand on extracted subnets, and scoring a list in shards."""

import itertools

import pytest
import torch
from helpers import BOTH_SHORTCUTS, random_archs, random_batch, tiny_supernet
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.swa_utils import update_bn

from nni_nas_consistency.arch import DIGITS
from nni_nas_consistency.released import FileError, read_released, read_scores
from nni_nas_consistency.scoring.shards import Shard, merge_shards, score_list
from nni_nas_consistency.scoring.subnet import Scoring, score_archs, score_network
from nni_nas_consistency.supernet.active import logits_of, set_active_subnet

TEST = [random_batch(size, seed) for seed, size in enumerate((8, 8, 5))]
TRAIN = [random_batch(size, seed) for seed, size in enumerate((6, 6, 3), 10)]
EVERY_METRIC = pytest.mark.parametrize("metric", ["loss", "acc"])
BN = ("supernet", "train", "test", "batch")
EVERY_BN = pytest.mark.parametrize("bn", BN)


def guessing_supernet(shortcut="projection"):
    """Return a supernet whose archs predict different classes, so that their accuracies differ."""
    supernet = tiny_supernet(shortcut=shortcut).train()
    with torch.no_grad():
        logits = [logits_of(supernet, TEST[0][0], arch) for arch in random_archs(supernet.form, 5, seed=3)]
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
    archs = [supernet.largest, supernet.smallest, *random_archs(supernet.form, 5, seed=3)]
    scores = list(score_archs(supernet, archs, scoring(metric, bn)))
    assert scores == pytest.approx([by_hand(supernet, arch, metric, bn) for arch in archs], rel=1e-12)
    assert len(set(scores)) > 2


@EVERY_METRIC
@EVERY_BN
def test_a_score_of_an_extracted_subnet_is_that_from_the_supernet(metric, bn):
    supernet = tiny_supernet()
    for arch in random_archs(supernet.form, 3, seed=4):
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
    set_active_subnet(supernet, supernet.smallest)
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

    for _ in score_archs(supernet, random_archs(supernet.form, 3), scoring("loss", bn)):
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


@given(count=st.integers(1, 12), archs=st.integers(0, 30))
def test_shards_share_a_list_out_evenly_and_in_order(count, archs):
    whole = {f"arch{i}": i for i in range(archs)}
    parts = [Shard(index, count).of(whole) for index in range(1, count + 1)]
    assert sorted(itertools.chain(*(part.items() for part in parts)), key=lambda item: item[1]) == list(whole.items())
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert all(list(part.values()) == sorted(part.values()) for part in parts)


def test_a_shard_is_written_as_its_number_and_their_count(tmp_path):
    assert Shard.parse("2/8") == Shard(2, 8)
    assert Shard(2, 8).path(tmp_path / "scores.json") == tmp_path / "scores.shard2of8.json"
    for text in ("2", "2/", "/8", "2/8/1", "a/b", "-1/8", " 2/8", "2.0/8", ""):
        with pytest.raises(ValueError, match=f"shard {text!r} is not of the form I/N, such as 2/8"):
            Shard.parse(text)
    for text in ("0/8", "9/8", "1/0"):
        with pytest.raises(ValueError, match=f"shard {text} does not exist"):
            Shard.parse(text)


ARCHS = {f"arch{index}": arch for index, arch in enumerate(random_archs(DIGITS, 7, seed=5), 1)}
MADE_BY = {"seed": 3, "checkpoint": "a"}


def score_shard(text, out, made_by=MADE_BY, archs=ARCHS):
    return score_list(
        tiny_supernet(),
        archs,
        scoring(),
        out=out,
        provenance=made_by,
        shard=Shard.parse(text),
        advance=lambda score: None,
    )


def test_a_list_is_scored_into_a_score_file_and_a_submission(tmp_path):
    seen = []
    out = tmp_path / "scores.json"
    written = score_list(tiny_supernet(), ARCHS, scoring(), out=out, provenance=MADE_BY, advance=seen.append)
    assert written == [out, tmp_path / "scores.submission.json"]
    assert sorted(tmp_path.iterdir()) == sorted(written)
    scores = read_scores(out, DIGITS)
    assert scores.provenance == MADE_BY
    assert list(scores.scores) == list(ARCHS)
    assert [arch for arch, _ in scores.scores.values()] == list(ARCHS.values())
    values = list(score_archs(tiny_supernet(), ARCHS.values(), scoring()))
    assert [score for _, score in scores.scores.values()] == values == seen

    submitted = read_released(written[1], DIGITS)
    assert {name: entry.arch for name, entry in submitted.items()} == ARCHS
    low, high = min(values), max(values)
    assert [entry.acc for entry in submitted.values()] == pytest.approx([(v - low) / (high - low) for v in values])
    assert {0.0, 1.0} <= {entry.acc for entry in submitted.values()}


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_merged_shards_are_byte_for_byte_the_file_of_the_whole_list(tmp_path, order):
    whole, out = tmp_path / "whole.json", tmp_path / "scores.json"
    score_shard("1/1", whole)
    for index in order[:2]:
        assert score_shard(f"{index}/3", out) == [tmp_path / f"scores.shard{index}of3.json"]
        assert not out.exists()
    assert score_shard(f"{order[2]}/3", out) == [tmp_path / f"scores.shard{order[2]}of3.json", out]
    assert out.read_bytes() == whole.read_bytes()
    submission, expected = tmp_path / "scores.submission.json", tmp_path / "whole.submission.json"
    assert submission.read_bytes() == expected.read_bytes()


def test_shards_that_were_scored_in_different_ways_are_not_merged(tmp_path):
    out = tmp_path / "scores.json"
    score_shard("1/2", out)
    with pytest.raises(FileError, match=r"shard2of2.json: was scored in another way than .*shard1of2.json; score both"):
        score_shard("2/2", out, {**MADE_BY, "checkpoint": "b"})
    assert not out.exists()
    score_shard("2/2", out)
    assert out.exists()


def test_shards_of_a_shorter_list_are_not_merged_as_the_whole(tmp_path):
    out = tmp_path / "scores.json"
    score_shard("1/2", out, archs=dict(list(ARCHS.items())[:4]))
    with pytest.raises(
        FileError, match="scores.json: the shards lack 2 archs of the list, such as arch5; score them again"
    ):
        score_shard("2/2", out)
    assert not out.exists()


def test_a_shard_left_over_from_another_list_of_the_same_names_is_not_merged(tmp_path):
    out = tmp_path / "scores.json"
    others = dict(zip(ARCHS, random_archs(DIGITS, len(ARCHS), seed=77), strict=True))
    score_shard("1/2", out, archs=others)
    with pytest.raises(FileError, match="the shards lack 4 archs of the list, such as arch1; score them again"):
        score_shard("2/2", out)
    assert not out.exists()


def test_merging_waits_until_all_shards_are_there(tmp_path):
    out = tmp_path / "scores.json"
    assert not merge_shards(out, 2, ARCHS, DIGITS)
    score_shard("2/2", out)
    assert not merge_shards(out, 2, ARCHS, DIGITS)
    assert not out.exists()
