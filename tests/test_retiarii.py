"""Scripts in the shape of NNI 2.10: Retiarii's names and calls, and what is said of those without a meaning today."""

import subprocess
import sys
from pathlib import Path

import nni
import pytest
import torch
from helpers import free_port, keep_nni_in, tiny_space, tiny_supernet
from nni.nas.evaluator import FunctionalEvaluator
from nni.nas.experiment.config import RawModelFormatConfig, SequentialEngineConfig, TrainingServiceEngineConfig
from nni.nas.nn.pytorch import LayerChoice, ModelSpace, MutableLinear
from nni.nas.strategy import Random, RegularizedEvolution
from torch import nn

from nni_nas_consistency import RetiariiExeConfig, RetiariiExperiment, SandwichStrategy
from nni_nas_consistency.errors import InputError
from nni_nas_consistency.nni3.manager import localhost_only


@pytest.fixture(autouse=True)
def nni_writes_to_a_temporary_folder(tmp_path, monkeypatch):
    keep_nni_in(tmp_path, monkeypatch)


class Space(ModelSpace):
    def __init__(self):
        super().__init__()
        self.activation = LayerChoice([nn.ReLU(), nn.Tanh()], label="activation")
        self.first = MutableLinear(4, nni.choice("width", [2, 3, 8]))
        self.second = MutableLinear(nni.choice("width", [2, 3, 8]), 2)

    def forward(self, x):
        return self.second(self.activation(self.first(x)))


def width_of(model):
    nni.report_final_result(float(model.first.out_features))


def in_process(folder, **settings):
    config = RetiariiExeConfig("local", experiment_working_directory=folder, **settings)
    config.execution_engine = "oneshot"
    return config


SCRIPT = """
import sys

import nni
import torch
import nni.nas.strategy as strategy
from nni.nas.evaluator import FunctionalEvaluator
from nni.nas.nn.pytorch import LayerChoice, ModelSpace, MutableLinear

from nni_nas_consistency import RetiariiExeConfig, RetiariiExperiment  # was: from nni.retiarii.experiment.pytorch


class Net(ModelSpace):
    def __init__(self):
        super().__init__()
        self.activation = LayerChoice([torch.nn.ReLU(), torch.nn.Tanh()], label="activation")
        self.first = MutableLinear(4, nni.choice("width", [2, 3, 8]))
        self.second = MutableLinear(nni.choice("width", [2, 3, 8]), 2)

    def forward(self, x):
        return self.second(self.activation(self.first(x)))


def evaluate(model):
    nni.report_intermediate_result(0.0)
    nni.report_final_result(float(model.first.out_features))


if __name__ == "__main__":
    port, folder = int(sys.argv[1]), sys.argv[2]
    space = Net()
    search = strategy.Random(dedup=True, seed=0)
    exp = RetiariiExperiment(space, FunctionalEvaluator(evaluate), [], search)

    exp_config = RetiariiExeConfig("local")
    exp_config.experiment_name = "usual shape"
    exp_config.trial_concurrency = 2
    exp_config.max_trial_number = 2
    exp_config.trial_gpu_number = 0
    exp_config.training_service.use_active_gpu = False
    exp_config.execution_engine = "py"
    exp_config.experiment_working_directory = folder

    exp.run(exp_config, port)
    (best,) = exp.export_top_models(formatter="dict")
    widths = [sample["width"] for sample in exp.export_top_models(top_k=2)]
    (network,) = exp.export_top_models(1, "maximize", "instance")
    print("best", best["width"] == max(widths), network.first.out_features == best["width"], len(widths))
    exp.stop()

    again = RetiariiExperiment(Net(), FunctionalEvaluator(evaluate), [], strategy.Random(), exp_config, id=exp.id)
    again.view(port, non_blocking=True)
    print("seen", sorted(job.status for job in again.list_trial_jobs()))
    again.stop()
"""


def test_a_script_in_the_usual_shape_runs_with_one_changed_import(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    with localhost_only():
        words = [sys.executable, "script.py", str(free_port()), str(tmp_path / "experiments")]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=560)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert "best True True 2" in lines
    assert "seen ['SUCCEEDED', 'SUCCEEDED']" in lines


def test_engine_oneshot_runs_in_this_process_and_the_best_models_are_exported(tmp_path):
    strategy = RegularizedEvolution(population_size=2, sample_size=2, seed=0)
    exp = RetiariiExperiment(Space(), FunctionalEvaluator(width_of), [], strategy)
    assert exp.run(in_process(tmp_path, max_trial_number=5), free_port())
    best, *others = exp.export_top_models(top_k=5)
    assert len(others) == 4 and best["width"] == max(sample["width"] for sample in [best, *others])
    (network,) = exp.export_top_models(formatter="instance")
    assert type(network.first) is nn.Linear and network.first.out_features == best["width"]
    (model,) = exp.export_top_models(formatter=None)
    assert model.metric == best["width"] and model.sample == best


def test_formatter_code_gives_plain_torch_that_computes_the_same(tmp_path):
    exp = RetiariiExperiment(tiny_supernet(torch.float32), FunctionalEvaluator(count), [], Random(seed=0))
    exp.run(in_process(tmp_path, max_trial_number=2))
    (code,) = exp.export_top_models(formatter="code")
    (network,) = exp.export_top_models(formatter="instance")
    made = {}
    exec(code, made)
    model = made["Model"]().eval()
    model.load_state_dict(network.state_dict(), strict=True)
    images = torch.randn(3, 1, 8, 8)
    assert torch.equal(model(images), network.eval()(images))
    of_others = RetiariiExperiment(Space(), FunctionalEvaluator(width_of), [], Random(seed=0))
    of_others.run(in_process(tmp_path, max_trial_number=1))
    with pytest.raises(InputError, match="^formatter 'code' is for chain spaces, and Space is none; give 'dict'"):
        of_others.export_top_models(formatter="code")


def count(model):
    nni.report_final_result(float(sum(parameter.numel() for parameter in model.parameters())))


def test_an_experiment_is_resumed_by_its_id_and_its_space(tmp_path):
    def experiment(**settings):
        return RetiariiExperiment(Space(), FunctionalEvaluator(width_of), [], Random(seed=0), **settings)

    first = experiment(config=in_process(tmp_path, max_trial_number=2))
    first.run()
    second = experiment(config=in_process(tmp_path, max_trial_number=4), id=first.id)
    assert second.resume()
    found = [sample for each in (first, second) for sample in each.export_top_models(top_k=9)]
    assert len(found) == 4 and len({str(sorted(sample.items())) for sample in found}) == 4


@pytest.mark.parametrize("mutators", [[], None, ()])
def test_all_forms_of_the_arguments_are_one(mutators):
    space, evaluator, strategy, config = Space(), FunctionalEvaluator(width_of), Random(), RetiariiExeConfig("local")
    forms = [
        RetiariiExperiment(space, evaluator, mutators, strategy, config),
        RetiariiExperiment(space, evaluator, mutators, strategy, config=config),
        RetiariiExperiment(space, evaluator, strategy, config),
        RetiariiExperiment(
            base_model=space, evaluator=evaluator, applied_mutators=mutators, strategy=strategy, config=config
        ),
    ]
    for exp in forms:
        assert (exp.model_space, exp.evaluator, exp.strategy, exp.config) == (space, evaluator, strategy, config)


def test_engines_of_retiarii_are_those_of_today():
    for config, engine in [(RetiariiExeConfig("local"), "py"), (RetiariiExeConfig(execution_engine="py"), None)]:
        if engine is not None:
            config.execution_engine = engine
        assert isinstance(config.execution_engine, TrainingServiceEngineConfig)
    for config in (RetiariiExeConfig(execution_engine="oneshot"), in_process(Path())):
        assert isinstance(config.execution_engine, SequentialEngineConfig)
        assert isinstance(config.model_format, RawModelFormatConfig)


def arguments(*positional, **named):
    return lambda: RetiariiExperiment(*positional, **named)


def setting(name, value):
    return lambda: setattr(RetiariiExeConfig("local"), name, value)


EVALUATOR = FunctionalEvaluator(width_of)

REFUSED = [
    (
        arguments(Space(), EVALUATOR, ["a mutator"], Random()),
        "mutators ['a mutator']: NNI 3.0 has none; write the choice",
    ),
    (arguments(Space(), EVALUATOR, Random(), applied_mutators=[3]), "mutators [3]: NNI 3.0 has none"),
    (arguments(Space(), trainer=object()), "trainer object: one-shot trainers are strategies now; give an evaluator"),
    (arguments(Space(), EVALUATOR, []), "the strategy is None; give one, such as RegularizedEvolution()"),
    (arguments(Space(), EVALUATOR), "the strategy is None; give one"),
    (arguments(Space(), Random()), "the strategy is None; give one"),
    (arguments(Space(), None, Random()), "the evaluator is None; give one of nni.nas.evaluator"),
    (arguments(Space(), EVALUATOR, [], Random(), None, 3), "3 is one argument too many"),
    (arguments(Space(), base_model=Space()), "base_model is the first argument; give one of them"),
    (arguments(nn.Linear(1, 1), EVALUATOR, [], Random()), "the space is a Linear; derive it from ModelSpace"),
    (
        setting("max_trial_nubmer", 3),
        "config.max_trial_nubmer: there is no such setting; did you mean max_trial_number?",
    ),
    (setting("use_active_gpu", True), "config.use_active_gpu: there is no such setting; "),
    (setting("devices", []), "config.devices: it belonged to engine 'cgo'; leave it out"),
    (setting("dummy_input", [1]), "config.dummy_input: it belonged to graphs of models; leave it out"),
    (setting("max_exec_duration", "1h"), "config.max_exec_duration: give max_experiment_duration"),
    (setting("execution_engine", "base"), "execution_engine 'base': it ran graphs of models, which"),
    (setting("execution_engine", "benchmark"), "execution_engine 'benchmark': a benchmark is an evaluator now"),
    (lambda: RetiariiExeConfig("local", execution_engine="cgo"), "execution_engine 'cgo': it merged graphs"),
    (
        lambda: RetiariiExeConfig("local", trial_concurency=2),
        "config.trial_concurency: there is no such setting; did you",
    ),
    (lambda: RetiariiExperiment.resume("abc", 8080), "an identifier does not tell the space; give RetiariiExperiment("),
    (lambda: RetiariiExperiment.view("abc", 8080), "strategy, id='abc').view(port=…)"),
]


@pytest.mark.parametrize(("call", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_what_has_no_meaning_any_more_is_refused_in_one_line_with_the_present_form(call, said):
    with pytest.raises(InputError) as caught:
        call()
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_setting_that_the_training_service_does_not_have_is_refused():
    with pytest.raises(AttributeError, match="^LocalConfig does not have field use_gpu$"):  # by NNI itself
        RetiariiExeConfig("local").training_service.use_gpu = True


def test_exports_that_have_no_meaning_and_pages_that_do_not_exist_are_refused(tmp_path):
    exp = RetiariiExperiment(Space(), FunctionalEvaluator(width_of), [], Random(seed=0))
    exp.run(in_process(tmp_path, max_trial_number=1))
    with pytest.raises(InputError, match="^optimize_mode 'minimize': a higher result is always better; report the neg"):
        exp.export_top_models(optimize_mode="minimize")
    with pytest.raises(InputError, match="^formatter 'graph': allowed are dict, instance, code"):
        exp.export_top_models(formatter="graph")
    with pytest.raises(InputError, match=f"^{exp.id}: ran in this process, and has no page; list its models by export"):
        exp.view(free_port(), non_blocking=True)


def test_a_one_shot_strategy_needs_no_engine_by_name():
    exp = RetiariiExperiment(tiny_space(), FunctionalEvaluator(width_of), [], SandwichStrategy())
    assert isinstance(exp.config.execution_engine, SequentialEngineConfig)
