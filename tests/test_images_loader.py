"""The loaders: a batch follows from seed, epoch and index, also where a run was resumed, by hand or by Lightning."""

from itertools import islice

import numpy as np
import pytest
import pytorch_lightning as lightning
import torch

from nni_nas_consistency.errors import CheckpointError, DataError, InputError
from nni_nas_consistency.images.augmentation import DIGITS_TEST, DIGITS_TRAIN, Augmentation
from nni_nas_consistency.images.datasets import Images
from nni_nas_consistency.images.loader import EvaluationLoader, TrainingLoader
from nni_nas_consistency.images.transforms import augment, normalise

# Lightning says that a validation step has no loader, and calls a deprecated name of torch
pytestmark = pytest.mark.filterwarnings("ignore:::pytorch_lightning")

PLAIN = Augmentation(mean=(0.0,), std=(1.0,))


def numbered(count):
    """Images that are told apart by their grey and their label."""
    x = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    return Images(x, torch.arange(count), count)


def random_images(count):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (count, 1, 8, 8), generator=generator).to(torch.uint8)
    return Images(x, torch.randint(10, (count,), generator=generator), 10)


def labels(batches):
    return [y.tolist() for _, y in batches]


def assert_same(batches, expected):
    assert len(batches) == len(expected)
    for (x, y), (other_x, other_y) in zip(batches, expected, strict=True):
        assert torch.equal(x, other_x) and torch.equal(y, other_y)


@pytest.mark.parametrize(("count", "sizes"), [(10, [4, 4, 2]), (8, [4, 4])])
def test_evaluation_goes_through_all_images_in_order_normalised_as_often_as_asked(count, sizes):
    images = random_images(count)
    loader = EvaluationLoader(images, DIGITS_TRAIN, 4)
    assert len(loader) == len(sizes)
    for _ in range(2):
        batches = list(loader)
        assert [len(y) for _, y in batches] == sizes
        assert torch.equal(torch.cat([x for x, _ in batches]), normalise(images.x, DIGITS_TEST))
        assert torch.equal(torch.cat([y for _, y in batches]), images.y)


def test_evaluation_refuses_a_batch_size_below_one():
    with pytest.raises(InputError, match="^batch_size is 0; it must be at least 1$"):
        EvaluationLoader(numbered(4), PLAIN, 0)


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [4, 4, 3]), (True, [4, 4])])
def test_an_epoch_visits_images_once_with_their_labels_in_an_order_of_its_own(drop_last, sizes):
    loader = TrainingLoader(numbered(11), PLAIN, batch_size=4, seed=0, drop_last=drop_last)
    epochs = [list(loader) for _ in range(3)]
    assert len(loader) == len(sizes)
    orders = []
    for epoch in epochs:
        assert [len(y) for _, y in epoch] == sizes
        orders.append(torch.cat([y for _, y in epoch]).tolist())
        assert len(set(orders[-1])) == sum(sizes)
        assert (torch.cat([x[:, 0, 0, 0] for x, _ in epoch]) * 255).round().tolist() == orders[-1]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def documented_generator(seed, *key):
    word = np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word))


def test_batches_follow_from_seed_epoch_and_index_alone():
    images = random_images(30)
    loader = TrainingLoader(images, DIGITS_TRAIN, batch_size=8, seed=5)
    for epoch in range(2):
        order = torch.randperm(30, generator=documented_generator(5, epoch))
        for i, (x, y) in enumerate(loader):
            chosen = order[8 * i : 8 * i + 8]
            assert torch.equal(y, images.y[chosen])
            assert torch.equal(x, augment(images.x[chosen], DIGITS_TRAIN, documented_generator(5, epoch, i)))


def test_another_seed_gives_another_order():
    one, other = (TrainingLoader(numbered(50), PLAIN, batch_size=50, seed=seed) for seed in (1, 2))
    assert labels(one) != labels(other)


@pytest.mark.parametrize("taken", range(9))
def test_a_loaded_state_continues_at_the_batch_that_comes_next(taken):
    def fresh():
        return TrainingLoader(random_images(11), DIGITS_TRAIN, batch_size=4, seed=3)

    whole = fresh()
    uninterrupted = [batch for _ in range(4) for batch in whole]
    stopped = fresh()
    for _ in range(taken // 3):
        list(stopped)
    list(islice(stopped, taken % 3))
    state = stopped.state_dict()
    assert state == {"seed": 3, "epoch": taken // 3, "batch": taken % 3}
    resumed = fresh()
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state and len(resumed) == 3
    epochs = [list(resumed) for _ in range(4 - taken // 3)]
    assert [len(epoch) for epoch in epochs] == [3 - taken % 3] + [3] * (3 - taken // 3)
    assert_same([batch for epoch in epochs for batch in epoch], uninterrupted[taken:])


def test_the_state_after_the_last_batch_is_the_next_epoch_even_if_no_more_is_requested():
    loader = TrainingLoader(numbered(6), PLAIN, batch_size=2, seed=0)
    list(islice(loader, 3))
    assert loader.state_dict() == {"seed": 0, "epoch": 1, "batch": 0}


def two_equal_loaders():
    return [TrainingLoader(numbered(30), PLAIN, batch_size=10, seed=0) for _ in range(2)]


def test_an_epoch_left_early_is_not_continued_and_one_never_started_is_not_skipped():
    loader, expected = two_equal_loaders()
    first, second = labels(expected), labels(expected)
    iter(loader)
    assert next(iter(loader))[1].tolist() == first[0]
    assert loader.state_dict()["batch"] == 1
    assert labels(loader) == second


def test_set_epoch_chooses_the_next_epoch_but_keeps_the_position_in_a_loaded_one():
    loader, expected = two_equal_loaders()
    orders = [labels(expected) for _ in range(4)]
    loader.sampler.set_epoch(2)
    assert loader.state_dict() == {"seed": 0, "epoch": 2, "batch": 0}
    assert labels(loader) == orders[2]
    loader.load_state_dict({"seed": 0, "epoch": 1, "batch": 2})
    loader.sampler.set_epoch(1)
    assert labels(loader) == orders[1][2:]
    loader.load_state_dict({"seed": 0, "epoch": 1, "batch": 2})
    loader.sampler.set_epoch(3)
    assert labels(loader) == orders[3]
    next(iter(loader))
    assert loader.state_dict() == {"seed": 0, "epoch": 4, "batch": 1}
    loader.sampler.set_epoch(5)
    assert loader.state_dict() == {"seed": 0, "epoch": 5, "batch": 0}


def test_two_passes_through_one_loader_do_not_disturb_each_other():
    loader, expected = two_equal_loaders()
    orders = [labels(expected) for _ in range(2)]
    pairs = list(zip(loader, loader, strict=True))
    assert [labels(one_pass) for one_pass in zip(*pairs, strict=True)] == orders
    assert loader.state_dict() == {"seed": 0, "epoch": 2, "batch": 0}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"seed": 4, "epoch": 0, "batch": 0}, "drawn with seed 4, this run has seed 3: resume with the same seed"),
        (
            {"seed": 3, "epoch": 2, "batch": 5},
            "before batch 5 of epoch 2, an epoch here has batches 0 to 4: resume with",
        ),
        ({"seed": 3, "epoch": 0, "batch": -1}, "before batch -1 of epoch 0, an epoch here has batches 0 to 4"),
        ({"seed": 3, "epoch": -1, "batch": 0}, "before batch 0 of epoch -1, an epoch here has batches 0 to 4"),
        ({"seed": 3, "batch": 0}, r"has \['batch', 'seed'\]; it must have seed, epoch and batch: resume from"),
    ],
)
def test_the_state_of_a_different_loader_is_refused(state, message):
    with pytest.raises(CheckpointError, match=message):
        TrainingLoader(numbered(10), PLAIN, batch_size=2, seed=3).load_state_dict(state)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"batch_size": 0, "seed": 0}, InputError, "batch_size is 0; it must be at least 1"),
        ({"batch_size": 2, "seed": -1}, InputError, "seed is -1; it must be at least 0"),
        ({"batch_size": 11, "seed": 0, "drop_last": True}, DataError, "10 images make no batch of 11: use more images"),
    ],
)
def test_settings_that_make_no_batch_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        TrainingLoader(numbered(10), PLAIN, **settings)


class Recorder(lightning.LightningModule):
    """Trains a linear layer and keeps the batches that it is given."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)
        self.seen, self.validated = [], []

    def training_step(self, batch, index):
        self.seen.append(batch)
        return torch.nn.functional.cross_entropy(self.layer(batch[0].flatten(1)), batch[1])

    def validation_step(self, batch, index):
        if not self.trainer.sanity_checking:
            self.validated.append(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveEverywhere(lightning.Callback):
    """Saves a checkpoint at each place where Lightning's own callback may."""

    def __init__(self, folder):
        self.folder = folder

    def save(self, trainer, place):
        if not trainer.sanity_checking:
            trainer.save_checkpoint(self.folder / f"{place}-{trainer.global_step}.ckpt")

    def on_train_batch_end(self, trainer, *rest):
        self.save(trainer, "batch")

    def on_validation_end(self, trainer, module):
        self.save(trainer, "validation")

    def on_train_epoch_end(self, trainer, module):
        self.save(trainer, "epoch")


def fit(*, validate, callbacks=(), checkpoint=None, **settings):
    """Train for three epochs of three batches on fresh objects; return the module."""
    module, images = Recorder(), random_images(21)
    training = TrainingLoader(images, DIGITS_TRAIN, batch_size=8, seed=1)
    validation = EvaluationLoader(images, DIGITS_TEST, 8) if validate else None
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    trainer = lightning.Trainer(accelerator="cpu", max_epochs=3, callbacks=list(callbacks), **quiet, **settings)
    trainer.fit(module, training, validation, ckpt_path=checkpoint)
    return module


@pytest.mark.parametrize("limit", [None, 2])
@pytest.mark.parametrize("validate", [False, True])
def test_a_lightning_run_resumed_from_any_checkpoint_sees_what_it_would_have_seen(tmp_path, validate, limit):
    settings = {"validate": validate, "limit_train_batches": limit}
    whole = fit(callbacks=[SaveEverywhere(tmp_path)], **settings)
    steps = 3 * (limit or 3)
    assert len(whole.seen) == steps
    checkpoints = sorted(tmp_path.iterdir())
    assert len(checkpoints) == steps + 3 + 3 * validate
    for checkpoint in checkpoints:
        done = int(checkpoint.stem.split("-")[1])
        assert_same(fit(checkpoint=checkpoint, **settings).seen, whole.seen[done:])


def test_lightning_validates_on_every_image_in_order_after_its_sanity_check():
    module = fit(validate=True, num_sanity_val_steps=2)
    assert_same(module.validated, list(EvaluationLoader(random_images(21), DIGITS_TEST, 8)) * 3)


def test_lightning_sees_each_epoch_as_it_is_drawn():
    loader = TrainingLoader(random_images(21), DIGITS_TRAIN, batch_size=8, seed=1)
    assert_same(fit(validate=False).seen, [batch for _ in range(3) for batch in loader])
