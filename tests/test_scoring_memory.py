"""What the prefix scorer runs at once: chunks of images, and the layout that fits the free memory."""

from types import SimpleNamespace

import pytest
import torch
from helpers import random_archs, random_batch, tiny_supernet
from scoring_chains import MIXED_LINKS
from torch import nn

from nni_nas_consistency.errors import InputError
from nni_nas_consistency.scoring import memory
from nni_nas_consistency.scoring.memory import Layout, features_per_image, free_memory, image_chunks, layout_for
from nni_nas_consistency.supernet.make import make_supernet

IMAGES, _ = random_batch(32)
CPU = torch.device("cpu")


def test_batches_of_one_size_are_joined_and_stay_in_order():
    batches = [random_batch(size, seed) for seed, size in enumerate((4, 4, 4, 3, 4))]
    chunks = list(image_chunks(batches, most=2))
    assert [(chunk.batches, len(chunk.labels)) for chunk in chunks] == [(2, 8), (1, 4), (1, 3), (1, 4)]
    assert torch.equal(torch.cat([chunk.images for chunk in chunks]), torch.cat([images for images, _ in batches]))
    assert torch.equal(torch.cat([chunk.labels for chunk in chunks]), torch.cat([labels for _, labels in batches]))


def test_half_a_layout_runs_half_of_the_batches_and_of_the_archs():
    assert Layout(8, 4).halved() == Layout(4, 2)
    assert Layout(3, 1).halved() == Layout(2, 1)
    with pytest.raises(InputError, match="^the memory does not hold one batch of images; use smaller batches$"):
        Layout(1, 1).halved()


def bytes_needed(supernet, images):
    """Return the bytes of a walk: two states per link of the largest arch, and four more of the largest state."""
    widths = list(supernet.largest.choices.values())[:19]
    sides = [8] * 7 + [4] * 6 + [2] * 6
    states = [width * side * side for width, side in zip(widths, sides, strict=True)] + [10]
    return (2 * sum(states) + 4 * max(states)) * 8 * images


def with_free_memory(monkeypatch, free):
    monkeypatch.setattr(memory, "free_memory", lambda device: free)


def test_a_batch_that_does_not_fit_half_of_the_free_memory_is_refused(monkeypatch):
    supernet = tiny_supernet()
    needed = bytes_needed(supernet, 32)
    with_free_memory(monkeypatch, 2 * needed)
    assert layout_for(supernet, [supernet.smallest], IMAGES, 10) == Layout(1, 1)
    with_free_memory(monkeypatch, 2 * needed - 2)
    with pytest.raises(InputError, match="^a batch of 32 images needs 0.0 GB; .* use smaller batches$"):
        layout_for(supernet, [supernet.smallest], IMAGES, 10)


def test_archs_side_by_side_fit_the_memory_and_on_a_cpu_batches_run_one_by_one(monkeypatch):
    supernet = tiny_supernet()
    roomy = layout_for(supernet, [supernet.smallest], IMAGES, 4)
    assert roomy.batches == 1 and roomy.bundle > 3
    with_free_memory(monkeypatch, 7 * bytes_needed(supernet, 32))
    assert layout_for(supernet, [supernet.smallest], IMAGES, 4) == Layout(1, 3)
    with_free_memory(monkeypatch, 2**40)
    many = IMAGES[:1].expand(2**16, -1, -1, -1)
    assert layout_for(supernet, [supernet.smallest], many, 4) == Layout(1, 1)


def test_without_a_largest_arch_the_neediest_of_the_list_counts(monkeypatch):
    supernet = make_supernet(MIXED_LINKS.make()).double()
    archs = random_archs(supernet.domain, 12)
    images = torch.zeros(16, 3, 8, 8, dtype=torch.float64)
    features = [features_per_image(supernet, arch, images[:1]) for arch in archs]
    needed = max((2 * sum(each) + 4 * max(each)) * 8 * 16 for each in features if sum(each) == max(map(sum, features)))
    with_free_memory(monkeypatch, 2 * needed)
    assert layout_for(supernet, archs, images, 1) == Layout(1, 1)
    with_free_memory(monkeypatch, 2 * needed - 2)
    for order in (archs, archs[::-1]):
        with pytest.raises(InputError, match="a batch of 16 images needs"):
            layout_for(supernet, order, images, 1)


def test_features_are_counted_link_by_link_and_nothing_is_left_changed():
    supernet = tiny_supernet().train()
    supernet.links.append(nn.Dropout(0.5))
    supernet.links[-1].key = lambda arch: ()
    run, generator = supernet.active.run, torch.get_rng_state()
    widths = list(supernet.smallest.choices.values())[:19]
    assert features_per_image(supernet, supernet.smallest, IMAGES[:1]) == [
        *(width * side * side for width, side in zip(widths, [8] * 7 + [4] * 6 + [2] * 6, strict=True)),
        10,
        10,
    ]
    assert supernet.active.run is run and supernet.training
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize(
    ("limit", "expected"), [("5000", 5000 - 4000 + 1500), ("max", 2**40)], ids=["limit", "no limit"]
)
def test_free_memory_is_no_more_than_the_control_group_leaves(limit, expected, tmp_path, monkeypatch):
    contents = {"memory.max": limit, "memory.current": "4000", "memory.stat": "anon 2500\ninactive_file 1500"}
    control_group(tmp_path, monkeypatch, contents)
    assert free_memory(CPU) == expected


def test_without_a_control_group_free_memory_is_that_of_the_machine(tmp_path, monkeypatch):
    control_group(tmp_path, monkeypatch, {})
    assert free_memory(CPU) == 2**40
    control_group(tmp_path, monkeypatch, {"memory.max": "5000", "memory.current": "1", "memory.stat": "anon 1"})
    assert free_memory(CPU) == 2**40
    monkeypatch.setattr(memory, "OWN_GROUP", tmp_path / "missing")
    assert free_memory(CPU) == 2**40


def control_group(folder, monkeypatch, contents):
    """Put this process into a control group with such files, on a machine with 1 TiB free."""
    group = folder / "a" / "b"
    group.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (group / name).write_text(content + "\n")
    (folder / "own").write_text("0::/a/b\n")
    monkeypatch.setattr(memory, "OWN_GROUP", folder / "own")
    monkeypatch.setattr(memory, "CONTROL_GROUPS", folder)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=2**40))
