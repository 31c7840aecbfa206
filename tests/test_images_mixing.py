"""Mixed images, smoothed labels, and the optimizer and schedule of transformers."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from nni_nas_consistency.errors import InputError
from nni_nas_consistency.images.augmentation import DIGITS_TEST, Mixing
from nni_nas_consistency.images.datasets import digits
from nni_nas_consistency.images.loader import TrainingLoader
from nni_nas_consistency.images.mixing import mixed
from nni_nas_consistency.strategies.losses import hard_cross_entropy
from nni_nas_consistency.training.lightning import optimizer_of
from nni_nas_consistency.training.recipes import FINETUNE_AUTOFORMER, SCRATCH_AUTOFORMER

IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 2, 1, 3])


def dice(seed=0):
    return torch.Generator().manual_seed(seed)


def test_without_mixing_images_and_labels_are_as_they_were():
    images, labels = mixed(IMAGES, LABELS, 4, Mixing(), dice())
    assert images is IMAGES and labels is LABELS


def test_mixup_is_a_weighted_mean_of_two_images_and_of_their_labels():
    images, labels = mixed(IMAGES, LABELS, 4, Mixing(mixup=0.8), dice())
    share = float(labels[0, 0])
    assert 0 < share < 1
    hot = F.one_hot(LABELS, 4).float()
    torch.testing.assert_close(labels, share * hot + (1 - share) * hot.roll(1, 0))
    torch.testing.assert_close(images, share * IMAGES + (1 - share) * IMAGES.roll(1, 0))


def test_cutmix_takes_a_rectangle_of_another_image_and_as_much_of_its_label():
    images, labels = mixed(IMAGES, LABELS, 4, Mixing(cutmix=1.0), dice(1))
    other = images == IMAGES.roll(1, 0)
    assert torch.all(other | (images == IMAGES))
    assert 0 < other.float().mean() < 1
    assert float(labels[0, 3]) == pytest.approx(float(other[0].float().mean()))


def test_smoothed_labels_lose_as_much_as_torchs_cross_entropy_with_label_smoothing():
    logits = torch.randn(6, 4, generator=dice())
    _, labels = mixed(IMAGES, LABELS, 4, Mixing(label_smoothing=0.1), dice())
    expected = F.cross_entropy(logits, LABELS, label_smoothing=0.1)
    torch.testing.assert_close(hard_cross_entropy(logits, labels), expected)
    stacked = hard_cross_entropy(torch.stack([logits, 2 * logits]), labels)
    torch.testing.assert_close(stacked[1], F.cross_entropy(2 * logits, LABELS, label_smoothing=0.1))


def test_both_ways_occur_and_the_generator_of_torch_does_not_move():
    before = torch.get_rng_state()
    ways = set()
    for seed in range(12):
        images, _ = mixed(IMAGES, LABELS, 4, Mixing(mixup=0.8, cutmix=1.0), dice(seed))
        ways.add(bool(torch.all((images == IMAGES) | (images == IMAGES.roll(1, 0)))))
    assert ways == {True, False}
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_of_mixed_images_are_functions_of_seed_epoch_and_index():
    def loader():
        mixing = Mixing(mixup=0.8, cutmix=1.0, label_smoothing=0.1)
        return TrainingLoader(digits(train=True).first(40), DIGITS_TEST, batch_size=16, seed=3, mixing=mixing)

    whole = list(loader())
    resumed = loader()
    resumed.load_state_dict({"seed": 3, "epoch": 0, "batch": 1})
    for (images, labels), (again, labels_again) in zip(whole[1:], resumed, strict=True):
        assert torch.equal(images, again) and torch.equal(labels, labels_again)
        torch.testing.assert_close(labels.sum(1), torch.ones(len(labels)))


@pytest.mark.parametrize("setting", [{"label_smoothing": 1.0}, {"mixup": -1.0}, {"cutmix": float("nan")}])
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(InputError, match=next(iter(setting))):
        Mixing(**setting)


def test_the_rate_of_a_transformer_warms_up_and_cools_down_per_epoch_from_and_to_its_end():
    rates = [SCRATCH_AUTOFORMER.lr_factor(10 * epoch, 10) * SCRATCH_AUTOFORMER.peak_lr for epoch in range(500)]
    assert rates[0] == pytest.approx(1e-5) and rates[10] == pytest.approx((1e-5 + 1e-3) / 2)
    assert rates[20] == pytest.approx(1e-5 + (1e-3 - 1e-5) * 0.99606, rel=1e-4)  # ½ (1 + cos(π 20 / 500))
    assert rates[250] == pytest.approx((1e-5 + 1e-3) / 2) and rates[499] == pytest.approx(1e-5, rel=2e-3)
    assert {SCRATCH_AUTOFORMER.lr_factor(step, 10) for step in range(10)} == {rates[0] / 1e-3}


def test_transformers_are_trained_by_adamw_with_decoupled_decay():
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = optimizer_of(FINETUNE_AUTOFORMER, [weight])
    assert isinstance(optimizer, torch.optim.AdamW)
    assert (optimizer.defaults["betas"], optimizer.defaults["weight_decay"]) == ((0.9, 0.999), 0.05)
    weight.grad = torch.zeros(1)
    optimizer.step()
    assert weight.item() == pytest.approx(1 - 5e-4 * 0.05)


def test_the_settings_of_a_run_name_what_came_later_only_where_it_is_set():
    names = set(SCRATCH_AUTOFORMER.settings())
    newest = {"optimizer", "decay", "end_lr", "label_smoothing", "mixup", "cutmix"}
    plain = replace(SCRATCH_AUTOFORMER, optimizer="sgd", decay="cosine", end_lr=0.0)
    plain = replace(plain, label_smoothing=0.0, mixup=0.0, cutmix=0.0)
    assert newest <= names and names - set(plain.settings()) == newest
