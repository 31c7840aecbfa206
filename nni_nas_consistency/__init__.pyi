from .archs.arch import DIGITS, RESNET20, RESNET48, Arch
from .errors import ArchError
from .files.arch_lists import read_released, write_released
from .files.score_files import read_scores, write_scores
from .nni3.experiment import RetiariiExeConfig, RetiariiExperiment, train_supernet
from .nni3.trial import score_subnet
from .ranking.statistics import kendall_tau, pearson, rank_consistency, spearman
from .scoring.plain import Scoring, score_archs, score_network
from .spaces.chain import ChainSpace
from .spaces.resnet20 import ResNet20Space
from .strategies.multitrial import ReleasedArchs
from .strategies.oneshot import SandwichStrategy
from .strategies.sampling import FairSampler, ParamsSampler, PoolSampler, UniformSampler, strict_fair_sampler
from .strategies.steps import sandwich_step
from .supernet.active import set_active_subnet
from .supernet.checkpoint import load_supernet, save_supernet
from .supernet.extract import sub_state_dict
from .supernet.modules import make_supernet
from .training.alone import train_alone
from .training.lightning import TrainingRun, image_scoring, training_evaluator

__all__ = [
    "DIGITS",
    "RESNET20",
    "RESNET48",
    "Arch",
    "ArchError",
    "ChainSpace",
    "FairSampler",
    "ParamsSampler",
    "PoolSampler",
    "ReleasedArchs",
    "ResNet20Space",
    "RetiariiExeConfig",
    "RetiariiExperiment",
    "SandwichStrategy",
    "Scoring",
    "TrainingRun",
    "UniformSampler",
    "image_scoring",
    "kendall_tau",
    "load_supernet",
    "make_supernet",
    "pearson",
    "rank_consistency",
    "read_released",
    "read_scores",
    "sandwich_step",
    "save_supernet",
    "score_archs",
    "score_network",
    "score_subnet",
    "set_active_subnet",
    "spearman",
    "strict_fair_sampler",
    "sub_state_dict",
    "train_alone",
    "train_supernet",
    "training_evaluator",
    "write_released",
    "write_scores",
]
