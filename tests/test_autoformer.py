"""AutoFormer from supernet to ranking: codes, costs, training, extraction, scores, by the tools of every space."""

from dataclasses import replace

import pytest
import torch
from command import run
from helpers import keep_nni_in, random_archs
from nni.nas.hub.pytorch import AutoFormer
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

from nni_nas_consistency import jobs
from nni_nas_consistency.archs.autoformer import TINY, TOY, autoformer_cost
from nni_nas_consistency.errors import ArchError
from nni_nas_consistency.files.arch_lists import Entry, write_released
from nni_nas_consistency.files.score_files import read_scores
from nni_nas_consistency.spaces.autoformer import autoformer_space
from nni_nas_consistency.spaces.hub import domain_of
from nni_nas_consistency.supernet.active import logits_of
from nni_nas_consistency.supernet.extract import sub_state_dict
from nni_nas_consistency.supernet.make import make_supernet
from nni_nas_consistency.systems import (
    AUTOFORMER_BASE,
    AUTOFORMER_SMALL,
    AUTOFORMER_TINY,
    AUTOFORMER_TOY,
    DIGITS_8,
    SYSTEMS,
    system_of_checkpoint,
)
from nni_nas_consistency.training.alone import plain_network
from nni_nas_consistency.training.recipes import AUTOFORMER_DIGITS

SHAPE = (10, 1, 8)
IMAGENET = (1000, 3, 224)


@pytest.fixture(scope="module", autouse=True)
def nni_home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        keep_nni_in(tmp_path_factory.mktemp("home"), patch)
        yield


@pytest.mark.parametrize(
    ("system", "params"), [(AUTOFORMER_TINY, 5.868), (AUTOFORMER_SMALL, 22.891), (AUTOFORMER_BASE, 53.692)]
)
def test_the_named_subnets_are_those_that_were_published(system, params):
    (name,) = system.subnets
    arch = system.arch(name)
    assert system.cost(arch, IMAGENET).params == pytest.approx(params * 1e6, abs=500)
    published = AutoFormer.load_searched_model(system.space)
    width = published.head.in_features
    assert arch.choices["embed_dim"] == width
    assert arch.choices["depth"] == len(published.blocks)
    for index, block in enumerate(published.blocks):
        assert arch.choices[f"num_head_{index}"] == block.attn.num_heads
        assert int(arch.choices[f"mlp_ratio_{index}"] * width) == block.fc1.out_features


@pytest.mark.parametrize("shape", [(10, 1, 8), (7, 3, 32)])
def test_costs_are_those_of_the_network(shape):
    space = autoformer_space(TOY, shape)
    for arch in [TOY.domain.largest, TOY.domain.smallest, *random_archs(TOY.domain, 2)]:
        network = plain_network(space, arch)
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, *shape[1:], shape[2]))
        params = sum(parameter.numel() for parameter in network.parameters())
        cost = autoformer_cost(arch, shape)
        assert (cost.params, 2 * cost.macs) == (params, counter.get_total_flops())


def test_archs_that_differ_in_blocks_which_they_lack_are_one_arch():
    choices = dict(TOY.domain.largest.choices) | {"depth": 2}
    arch = TOY.codec.arch(choices)
    other = TOY.codec.arch(choices | {"num_head_3": 1, "mlp_ratio_2": 2.0})
    assert arch == other == TOY.codec.arch({k: v for k, v in choices.items() if not k.endswith(("_2", "_3"))})
    assert arch.choices["num_head_3"] == 1 and arch.choices["mlp_ratio_2"] == 1.0
    deep = TOY.codec.arch(choices | {"depth": 4})
    assert deep.choices["num_head_3"] == 2
    longer = deep.code.replace('"depth":4', '"depth":2')
    assert TOY.codec.parse(longer).choices == arch.choices and TOY.codec.canonical(longer) == arch.code
    with pytest.raises(ArchError, match="mlp_ratio_2 of arch is 9"):
        TOY.codec.arch(choices | {"mlp_ratio_2": 9.0})


def test_the_domain_without_torch_is_that_of_nnis_space():
    domain = domain_of(autoformer_space(TINY, IMAGENET))
    expected = {variable.name: variable for variable in TINY.domain.variables}
    assert {variable.name: variable for variable in domain.variables} == expected
    assert (domain.largest, domain.smallest) == (TINY.domain.largest, TINY.domain.smallest)
    assert domain.codec == TINY.codec


def short(out, *, rule="sandwich", **changes):
    """Return a training of two epochs with everything that draws at random."""
    phase = AUTOFORMER_DIGITS.phases[0]
    plan = replace(phase.optimization, epochs=2, warmup_epochs=1, mixup=0.8, cutmix=1.0, label_smoothing=0.1)
    n, teacher = (3, 1) if rule == "sandwich" else (1, None)
    phase = replace(phase, optimization=plan, rule=rule, n=n, distill_from=teacher)
    few = {"train_images": 64, "val_images": 20, "device": "cpu", "checkpoint_steps": 1, **changes}
    return jobs.TrainJob(AUTOFORMER_TOY, DIGITS_8, replace(AUTOFORMER_DIGITS, phases=(phase,)), out, **few)


def silently(line):
    pass


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    jobs.train(short(folder), write=silently)
    return folder / "supernet.safetensors"


def test_a_trained_supernet_gives_its_subnets_to_the_frozen_space(trained):
    supernet, about = jobs.load_trained(AUTOFORMER_TOY, trained, SHAPE)
    supernet.double().eval()
    assert about["recipe"] == "autoformer-digits" and about["optimizer"] == "adamw"
    images = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    for arch in [TOY.domain.largest, TOY.domain.smallest, *random_archs(TOY.domain, 3)]:
        network = plain_network(autoformer_space(TOY, SHAPE), arch).double().eval()
        network.load_state_dict(sub_state_dict(supernet, arch), strict=True)
        torch.testing.assert_close(network(images), logits_of(supernet, images, arch), rtol=0, atol=0)
        torch.testing.assert_close(network(images), supernet.freeze(arch.sample)(images), rtol=0, atol=0)


def test_training_moves_every_weight_from_a_truncated_normal(trained):
    fresh = make_supernet(autoformer_space(TOY, SHAPE))
    weights = load_file(trained)
    assert weights["blocks.blocks.0.fc1.weight"].std() < 0.04  # torch's own: 0.1
    assert all(weights["blocks.blocks.0.attn.q.bias"] != 0)
    assert {name: w.shape for name, w in weights.items()} == {n: w.shape for n, w in fresh.state_dict().items()}


@pytest.mark.parametrize("rule", ["sandwich", "multi-path"])
def test_a_killed_training_with_drop_path_and_mixed_images_ends_with_the_same_weights(rule, tmp_path):
    class Killed(BaseException):
        pass

    def kill(line):
        if line.startswith("epoch 2/"):
            raise Killed

    whole = jobs.train(short(tmp_path / "whole", rule=rule), write=silently)
    with pytest.raises(Killed):
        jobs.train(short(tmp_path / "killed", rule=rule), write=kill)
    assert (tmp_path / "killed" / "checkpoints" / "last.ckpt").is_file()
    torch.randn(7)  # a process of its own would begin with another state
    resumed = load_file(jobs.train(short(tmp_path / "killed", rule=rule), write=silently))
    assert all(torch.equal(resumed[name], tensor) for name, tensor in load_file(whole).items())


def test_scores_are_those_of_the_frozen_subnets_and_rank_against_networks_trained_alone(trained, tmp_path):
    archs = {f"arch{i}": arch for i, arch in enumerate(random_archs(TOY.domain, 4), 1)}
    write_released(tmp_path / "list.json", {name: Entry(arch, 0) for name, arch in archs.items()})
    run(
        "score",
        "--checkpoint",
        trained,
        "--archs",
        tmp_path / "list.json",
        "--images",
        60,
        "--out",
        tmp_path / "s.json",
    )
    scored = read_scores(tmp_path / "s.json", TOY.codec)
    assert (scored.provenance["scorer"], scored.provenance["bn"]) == ("plain", "supernet")

    supernet, _ = jobs.load_trained(AUTOFORMER_TOY, trained, SHAPE)
    test = DIGITS_8.images(None, train=False).first(60)
    x = (test.x.float() / 255 - DIGITS_8.test.mean[0]) / DIGITS_8.test.std[0]
    for name, arch in archs.items():
        logits = supernet.freeze(arch.sample).eval()(x)
        loss = torch.nn.functional.cross_entropy(logits, test.y)
        assert scored.scores[name][1] == pytest.approx(-loss.item(), rel=1e-5)

    words = ("--archs", tmp_path / "list.json", "--epochs", 1, "--set", "batch_size=300", "--set", "warmup_epochs=0")
    run("standalone", "--space", "autoformer-digits", *words, "--out", tmp_path / "alone")
    done = run("rank", tmp_path / "s.json", tmp_path / "alone" / "reference.json", "--resamples", 20)
    assert "kendall" in done.out


def test_a_checkpoint_tells_its_system(trained):
    header = {"class": "AutoFormer", "search_embed_dim": [16, 24, 32]}
    assert system_of_checkpoint(header) is AUTOFORMER_TOY
    named = [system.space for system in SYSTEMS if system.space.startswith("autoformer")]
    assert named == ["autoformer-tiny", "autoformer-small", "autoformer-base", "autoformer-digits"]


@pytest.mark.parametrize("device", ["float64", "float32"])
def test_scoring_works_in_either_precision(trained, tmp_path, device):
    write_released(tmp_path / "list.json", {"arch1": Entry(TOY.domain.largest, 0)})
    words = ("--archs", tmp_path / "list.json", "--images", 8, "--precision", device, "--out", tmp_path / "s.json")
    run("score", "--checkpoint", trained, *words)
