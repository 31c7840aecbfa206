from .archs.arch import Arch
from .archs.codecs import DIGITS_CODEC, RESNET20_CODEC, RESNET48_CODEC
from .archs.domains import Domain
from .errors import ArchError, InputError
from .files.arch_lists import read_released, write_released
from .files.score_files import read_scores, write_scores
from .jobs import RankJob, ScoreJob, StudyJob, TrainJob
from .nni3.experiment import RetiariiExeConfig, RetiariiExperiment
from .nni3.trial import score_subnet
from .ranking.statistics import kendall_tau, pearson, rank_consistency, spearman
from .scoring.images import image_scoring
from .scoring.plain import score_archs, score_network
from .scoring.scoring import Scoring
from .spaces.chain import ChainSpace
from .spaces.efficient_cifar import EfficientCifarSpace
from .spaces.hub import domain_of
from .spaces.resnet20 import ResNet20Space
from .spaces.resnet48 import ResNet48Space
from .spaces.spos_cifar import SposCifarSpace
from .strategies.multitrial import ReleasedArchs
from .strategies.oneshot import SandwichStrategy
from .strategies.sampling import (
    FairSampler,
    MacsBinsSampler,
    ParamsSampler,
    PoolSampler,
    UniformSampler,
    strict_fair_sampler,
)
from .strategies.steps import label_step, multi_path_step, pool_distillation_step, sandwich_step
from .supernet.active import active_subnet
from .supernet.checkpoint import load_supernet, save_supernet
from .supernet.extract import sub_state_dict
from .supernet.make import make_supernet
from .supernet.sharing import Sharing
from .supernet.unsharing import unshare
from .training.alone import train_alone
from .training.lightning import training_evaluator
from .training.run import TrainingRun
from .training.supernet import train_supernet

__all__ = [
    "DIGITS_CODEC",
    "RESNET20_CODEC",
    "RESNET48_CODEC",
    "Arch",
    "ArchError",
    "ChainSpace",
    "Domain",
    "EfficientCifarSpace",
    "FairSampler",
    "InputError",
    "MacsBinsSampler",
    "ParamsSampler",
    "PoolSampler",
    "RankJob",
    "ReleasedArchs",
    "ResNet20Space",
    "ResNet48Space",
    "RetiariiExeConfig",
    "RetiariiExperiment",
    "SandwichStrategy",
    "ScoreJob",
    "Scoring",
    "Sharing",
    "SposCifarSpace",
    "StudyJob",
    "TrainJob",
    "TrainingRun",
    "UniformSampler",
    "active_subnet",
    "domain_of",
    "image_scoring",
    "kendall_tau",
    "label_step",
    "load_supernet",
    "make_supernet",
    "multi_path_step",
    "pearson",
    "pool_distillation_step",
    "rank_consistency",
    "read_released",
    "read_scores",
    "sandwich_step",
    "save_supernet",
    "score_archs",
    "score_network",
    "score_subnet",
    "spearman",
    "strict_fair_sampler",
    "sub_state_dict",
    "train_alone",
    "train_supernet",
    "training_evaluator",
    "unshare",
    "write_released",
    "write_scores",
]
