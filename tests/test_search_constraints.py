"""Searches within bounds on what archs cost, the Pareto set of score against cost, and measured latencies."""

import json
from functools import cache, partial
from itertools import product

import numpy as np
import pytest
import torch
from command import run
from helpers import keep_nni_in, random_archs, tiny_space, tiny_supernet
from numpy.random import RandomState
from torch import nn

from nni_nas_consistency import make_supernet, read_scores, save_supernet
from nni_nas_consistency.archs.arch import Arch, Choices
from nni_nas_consistency.archs.codecs import DIGITS_CODEC, SampleCodec
from nni_nas_consistency.archs.cost import resnet20_cost
from nni_nas_consistency.archs.domains import DIGITS, RELEASED, Domain, Variable
from nni_nas_consistency.archs.resnet48 import resnet48_cost
from nni_nas_consistency.errors import FileError, InputError
from nni_nas_consistency.files.latencies import LatencySetup, add_latency, read_latencies
from nni_nas_consistency.ranking.plots import pareto_plot
from nni_nas_consistency.scoring.scoring import Scoring
from nni_nas_consistency.search.constraints import Bounds, Constraint, smallest_arch
from nni_nas_consistency.search.costs import cached_latency, frozen_network, measured_latency, network_cost
from nni_nas_consistency.search.evolution import Evolution, RandomSearch, search
from nni_nas_consistency.search.pareto import Candidate, pareto_lines, pareto_set
from nni_nas_consistency.spaces.hub import domain_of
from nni_nas_consistency.spaces.resnet48 import ResNet48Space
from spaces import EVERY_SPACE

SHAPE = (10, 1, 8)
SETUP = LatencySetup("here", "cpu", "2.0", 1, 1, "digits")


@pytest.fixture(autouse=True)
def nni_writes_to_a_temporary_folder(tmp_path, monkeypatch):
    keep_nni_in(tmp_path, monkeypatch)


def macs(arch):
    return resnet20_cost(arch, SHAPE, "projection").macs


def params(arch):
    return resnet20_cost(arch, SHAPE, "projection").params


def digits_bounds(most, of=macs):
    return Bounds(DIGITS, (Constraint("macs", most, of, DIGITS.smallest),))


# drawing


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_draws_are_within_the_bound_and_differ_however_tight_it_is(share):
    low, high = macs(DIGITS.smallest), macs(DIGITS.largest)
    most = low + share * (high - low)
    dice = RandomState(0)
    drawn = [digits_bounds(most).draw(dice) for _ in range(20)]
    assert all(macs(arch) <= most for arch in drawn)
    assert len(set(drawn)) > 15


def test_a_bound_that_the_smallest_arch_just_reaches_allows_that_one_alone():
    bounds = digits_bounds(macs(DIGITS.smallest))
    bounds.check()
    assert bounds.draw(RandomState(0)) == DIGITS.smallest


def test_a_bound_below_the_smallest_arch_is_refused_with_its_cost():
    least = macs(DIGITS.smallest)
    with pytest.raises(InputError, match=rf"^--max-macs {least - 1}: .*, 1-1-1-.* has {least:,} MACs; give a larger"):
        digits_bounds(least - 1).check()


def operators_domain():
    """Return a domain without a smallest arch: three operators, and a depth that another variable needs."""
    costs = {"a": 5, "b": 2, "c": 9}
    codec = SampleCodec("operators", {"x": tuple(costs), "y": tuple(costs), "depth": (2, 1)})
    variables = tuple(Variable(label, choices, (label,)) for label, choices in codec.allowed.items())

    def not_both_c(choices):
        return "both are c" if (choices["x"], choices["y"]) == ("c", "c") else None

    def cost(arch):
        return arch.choices["depth"] * (costs[arch.choices["x"]] + 2 * costs[arch.choices["y"]])

    return Domain(codec, variables, constraints=(not_both_c,)), cost


def test_the_smallest_arch_of_a_space_that_declares_none_is_the_one_that_costs_least():
    domain, cost = operators_domain()
    archs = [
        domain.arch(dict(zip(("x", "y", "depth"), picks, strict=True)))
        for picks in product("abc", "abc", (1, 2))
        if picks[:2] != ("c", "c")
    ]
    smallest = smallest_arch(domain, cost)
    assert smallest == min(archs, key=cost)
    bounds = Bounds(domain, (Constraint("macs", cost(smallest) + 3, cost, smallest),))
    dice = RandomState(1)
    allowed = {arch for arch in archs if cost(arch) <= cost(smallest) + 3}
    assert {bounds.draw(dice) for _ in range(200)} == allowed


def test_bounds_that_no_known_arch_meets_together_are_refused():
    domain, cost = operators_domain()

    def other(arch):
        return 100 - cost(arch)

    first = Constraint("macs", 10, cost, smallest_arch(domain, cost))
    second = Constraint("params", 70, other, smallest_arch(domain, other))
    with pytest.raises(InputError, match="^--max-macs 10 and --max-params 70: no arch is known that is within all"):
        Bounds(domain, (first, second)).check()


# searching


def toy_scoring(make_images, labels=10):
    images = make_images().float()
    return Scoring("loss", "batch", lambda: [(images, torch.arange(len(images)) % labels)])


@pytest.mark.parametrize("how", [Evolution(4), RandomSearch()], ids=["evolution", "random"])
def test_a_search_scores_only_archs_within_all_bounds_and_depends_on_its_seed_alone(tmp_path, how):
    most_macs, most_params = (of(DIGITS.smallest) * 4 for of in (macs, params))
    bounds = Bounds(
        DIGITS,
        (
            Constraint("macs", most_macs, macs, DIGITS.smallest),
            Constraint("params", most_params, params, DIGITS.smallest),
        ),
    )
    x = torch.randn(6, *SHAPE[1:2], 8, 8, generator=torch.Generator().manual_seed(0))
    scoring = Scoring("loss", "batch", lambda: [(x, torch.arange(6))])
    found = [
        search(
            tiny_supernet(torch.float32),
            scoring,
            how,
            out=tmp_path / f"{seed}{run_again}.json",
            trials=12,
            seed=seed,
            provenance={},
            bounds=bounds,
        )
        for seed, run_again in ((0, False), (0, True), (1, False))
    ]
    archs = [arch for arch, _ in found[0].values()]
    assert len(set(archs)) == 12
    assert all(macs(arch) <= most_macs and params(arch) <= most_params for arch in archs)
    assert found[0] == found[1] != found[2]


def test_random_search_without_bounds_draws_archs_that_do_not_depend_on_scores(tmp_path):
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def archs(labels, name):
        scoring = Scoring("loss", "batch", lambda: [(x, labels)])
        options = {"out": tmp_path / name, "trials": 6, "seed": 3, "provenance": {}}
        return [arch for arch, _ in search(tiny_supernet(torch.float32), scoring, RandomSearch(), **options).values()]

    assert archs(torch.zeros(4, dtype=torch.long), "a.json") == archs(torch.arange(4), "b.json")


@pytest.mark.parametrize("name", ["chain-operators", "nasbench201", "constrained"])
@pytest.mark.parametrize("how", [Evolution(3), RandomSearch()], ids=["evolution", "random"])
def test_spaces_whose_archs_are_samples_are_searched_within_costs_counted_on_their_networks(tmp_path, name, how):
    (case,) = [case for case in EVERY_SPACE if case.name == name]
    space = case.make()
    shape = (case.num_classes, 3, case.images().shape[-1])

    @cache
    def cost(arch):
        return network_cost(frozen_network(space, arch), shape).params

    domain = domain_of(space)
    costs = sorted({cost(arch) for arch in random_archs_allowed(domain, 5)})
    most = costs[len(costs) // 2]
    supernet = make_supernet(case.make())
    bounds = Bounds(domain, (Constraint("params", most, cost, smallest_arch(domain, cost)),))
    scores = search(
        supernet,
        toy_scoring(case.images),
        how,
        out=tmp_path / "out.json",
        trials=4,
        seed=0,
        provenance={},
        bounds=bounds,
    )
    assert 2 <= len(scores) <= 4
    assert all(cost(arch) <= most for arch, _ in scores.values())
    assert read_scores(tmp_path / "out.json", domain.codec).scores == scores


def random_archs_allowed(domain, n):
    found = []
    for seed in range(200):
        try:
            found += random_archs(domain, 1, seed)
        except InputError:
            continue
        if len(found) == n:
            return found
    raise AssertionError("too few archs")


# costs of networks


@pytest.mark.parametrize("seed", [0, 1])
def test_costs_counted_on_networks_are_those_of_the_formulas(seed):
    (arch,) = random_archs(DIGITS, 1, seed)
    counted = network_cost(frozen_network(tiny_space("standalone"), arch), SHAPE)
    assert counted == resnet20_cost(arch, SHAPE, "standalone")
    (arch,) = random_archs(RELEASED, 1, seed)
    space = ResNet48Space(10, 3, 32, "standalone", "nominal", width_divisor=8)
    assert network_cost(frozen_network(space, arch), (10, 3, 32)) == resnet48_cost(arch, (10, 3, 32))


def test_attention_costs_its_projections_and_its_two_matrix_products():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, images):
            tokens = images.flatten(2).transpose(1, 2)
            return self.attention(tokens, tokens, tokens, need_weights=False)[0]

    network = Attends().eval()
    tokens, width = 9, 4
    cost = network_cost(network, (10, width, 3))
    assert cost.macs == 4 * tokens * width * width + 2 * tokens * tokens * width
    assert cost.params == sum(parameter.numel() for parameter in network.parameters())


def test_freezing_a_network_leaves_the_generator_of_torch_alone():
    space = tiny_space()
    before = torch.random.get_rng_state()
    frozen_network(space, DIGITS.largest)
    assert torch.equal(torch.random.get_rng_state(), before)


# latency


def test_a_latency_is_the_median_of_its_runs_after_some_to_warm_up(monkeypatch):
    clock, shapes = [0.0], []
    times = iter([9.0] * 5 + [3.0] * 15 + [2.0] * 1 + [1.0] * 15)

    def network(images):
        shapes.append(tuple(images.shape))
        clock[0] += next(times)

    class Network(nn.Module):
        def forward(self, images):
            network(images)

    monkeypatch.setattr("nni_nas_consistency.search.costs.time.perf_counter", lambda: clock[0])
    assert measured_latency(Network(), (10, 3, 8), batch_size=7, device="cpu") == 2000
    assert set(shapes) == {(7, 3, 8, 8)}


def test_latencies_are_measured_once_per_machine_and_settings(tmp_path):
    path = tmp_path / "latencies.jsonl"
    measured = []

    def measure(arch):
        measured.append(arch)
        return 1.5 + len(measured)

    small, large = DIGITS.smallest, DIGITS.largest
    canonical = DIGITS_CODEC.canonical
    latency = cached_latency(path, SETUP, measure, canonical)
    assert [latency(small), latency(large), latency(small)] == [2.5, 3.5, 2.5]
    assert cached_latency(path, SETUP, measure, canonical)(large) == 3.5
    elsewhere = LatencySetup("there", "cpu", "2.0", 1, 1, "digits")
    assert cached_latency(path, elsewhere, measure, canonical)(large) == 4.5
    assert measured == [small, large, large]
    assert read_latencies(path) == {SETUP: {small.code: 2.5, large.code: 3.5}, elsewhere: {large.code: 4.5}}


def test_a_line_of_latencies_that_a_kill_cut_off_is_dropped(tmp_path):
    path = tmp_path / "latencies.jsonl"
    add_latency(path, SETUP, "a", 1.0)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:20])
    assert read_latencies(path) == {SETUP: {"a": 1.0}}
    add_latency(path, SETUP, "b", 2.0)
    assert read_latencies(path) == {SETUP: {"a": 1.0, "b": 2.0}}
    path.write_bytes(whole[:5])
    add_latency(path, SETUP, "c", 3.0)
    assert read_latencies(path) == {SETUP: {"c": 3.0}}
    path.write_bytes(b"{}\n" + whole)
    with pytest.raises(FileError, match="line 1 is no latency: the line lacks the field 'machine'"):
        read_latencies(path)


# the Pareto set


def dominated(one, others, cost):
    return any(
        (other.costs[cost] <= one.costs[cost] and other.score >= one.score)
        and (other.costs[cost] < one.costs[cost] or other.score > one.score)
        for other in others
    )


@pytest.mark.parametrize("cost", ["macs", "params"])
def test_the_pareto_set_is_that_of_its_definition_with_ties(cost):
    dice = np.random.default_rng(0)
    candidates = [
        Candidate(f"arch{index}", Arch(str(index), Choices({})), float(dice.integers(6)), {"macs": a, "params": b})
        for index, (a, b) in enumerate(dice.integers(6, size=(40, 2)).tolist())
    ]
    chosen = pareto_set(candidates, cost)
    assert {each.name for each in chosen} == {each.name for each in candidates if not dominated(each, candidates, cost)}
    assert [each.costs[cost] for each in chosen] == sorted(each.costs[cost] for each in chosen)


def test_the_figure_shows_all_archs_and_the_set_in_another_colour():
    figure = pareto_plot([3, 1, 2], [0.5, 0.1, 0.7], [1, 2], title="t", cost_label="MACs")
    (axes,) = figure.axes
    every, chosen = axes.collections
    assert every.get_offsets().tolist() == [[3, 0.5], [1, 0.1], [2, 0.7]]
    assert chosen.get_offsets().tolist() == [[1, 0.1], [2, 0.7]]
    assert every.get_facecolor()[0, :3].tolist() != chosen.get_facecolor()[0, :3].tolist()


# the command line


@pytest.fixture
def supernet_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_supernet(tmp_path / "supernet.safetensors", tiny_supernet(torch.float32), {"data": "digits"})
    return tmp_path / "supernet.safetensors"


def searching(*more, trials=6):
    words = ("search", "--checkpoint", "supernet.safetensors", "--images", 20, "--trials", trials, "--device", "cpu")
    return (*words, "--out", "out.json", *more)


def test_the_command_searches_within_bounds_and_writes_the_pareto_set(tmp_path, supernet_file):
    most = 2 * macs(DIGITS.smallest)
    words = searching("--strategy", "random", "--max-macs", most, "--max-params", "3k", "--pareto", "pareto", trials=8)
    done = run(*words)
    written = read_scores("out.json", DIGITS_CODEC)
    assert written.provenance["max_macs"] == most and written.provenance["max_params"] == 3000
    assert written.provenance["strategy"] == "random" and "population" not in written.provenance
    scores = {name: (score, macs(arch), params(arch)) for name, (arch, score) in written.scores.items()}
    assert len(scores) == 8 and all(cost <= most and count <= 3000 for _, cost, count in scores.values())

    document = json.loads((tmp_path / "pareto" / "pareto.json").read_text())
    candidates = [
        Candidate(name, arch, score, {"macs": macs(arch), "params": params(arch)})
        for name, (arch, score) in written.scores.items()
    ]
    chosen = pareto_set(candidates, "macs")
    assert document["cost"] == "macs"
    assert document["archs"] == {
        each.name: {"arch": each.arch.code, "score": each.score, **each.costs} for each in chosen
    }
    assert document["provenance"]["max_macs"] == most and document["provenance"]["data"] == "digits"
    assert (tmp_path / "pareto" / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert done.out.splitlines()[-len(chosen) - 1 :] == pareto_lines(chosen)
    assert pareto_lines(chosen)[1].split()[0] == chosen[0].name
    assert run(*words).out == done.out


def test_an_evolution_within_a_latency_goes_on_by_the_latencies_that_were_measured(
    tmp_path, supernet_file, monkeypatch
):
    import nni_nas_consistency.search.costs as costs

    def slow(network, shape, *, batch_size, device):
        assert (shape, batch_size, device) == (SHAPE, 3, "cpu")
        return sum(parameter.numel() for parameter in network.parameters()) / 1000

    monkeypatch.setattr(costs, "measured_latency", slow)
    most = 2 * params(DIGITS.smallest) / 1000
    words = searching("--population", 3, "--max-latency-ms", most, "--latency-batch", 3, "--pareto", "pareto")
    done = run(*words)
    provenance = read_scores("out.json", DIGITS_CODEC).provenance
    assert provenance["max_latency_ms"] == most and provenance["latency"]["batch_size"] == 3
    for arch, _ in read_scores("out.json", DIGITS_CODEC).scores.values():
        assert params(arch) / 1000 <= most
    assert json.loads((tmp_path / "pareto" / "pareto.json").read_text())["cost"] == "latency"
    assert " ms " in next(line for line in done.out.splitlines() if line.startswith("name "))

    monkeypatch.setattr(costs, "measured_latency", partial(pytest.fail, "measured again"))
    (tmp_path / "out.json").rename(tmp_path / "first.json")
    run(*words)
    assert (tmp_path / "out.json").read_bytes() == (tmp_path / "first.json").read_bytes()


def test_an_evolution_within_a_latency_is_not_gone_on_with_without_its_latencies(tmp_path, supernet_file):
    (tmp_path / "out.journal").write_text("")
    error = run(*searching("--max-latency-ms", 1000), code=2).error
    assert "out.latencies.jsonl: is missing, though the search at out.json was begun with it" in error


def test_real_latencies_are_positive_and_those_of_this_machine(tmp_path, supernet_file):
    run(*searching("--max-latency-ms", 60_000, "--latency-file", "here.jsonl", "--strategy", "random", trials=2))
    ((setup, latencies),) = read_latencies(tmp_path / "here.jsonl").items()
    assert (setup.device, setup.torch, setup.threads) == ("cpu", torch.__version__, torch.get_num_threads())
    assert setup.network == "digits, 10 classes, 1x8x8" and setup.batch_size == 1
    assert len(latencies) >= 3 and all(0 < each < 60_000 for each in latencies.values())
    error = run(*searching("--max-latency-ms", "0.0001", "--latency-file", "here.jsonl"), code=2).error
    assert "--max-latency-ms 0.0001: no arch costs as little; the smallest, 1-1-1-" in error and " ms; give" in error
