"""Jobs: values that hold all that decides a result, and one function each that does them.

The command line, an NNI trial, the quickstart and a benchmark build a job and call the same function. Torch and NNI are
imported by the functions, so that a job is made, and its words are checked, without them.
"""

from nni_nas_consistency.jobs.choose_images_job import ChooseImagesJob, choose_images
from nni_nas_consistency.jobs.convert_job import ConvertJob, convert
from nni_nas_consistency.jobs.ensemble_job import EnsembleJob, ensemble
from nni_nas_consistency.jobs.evaluate_job import EvaluateJob, evaluate, network_header, network_of
from nni_nas_consistency.jobs.extract_job import Extracted, ExtractJob, extract
from nni_nas_consistency.jobs.fit_job import FitJob, fit
from nni_nas_consistency.jobs.inputs import costs_of, device_of, first_archs, load_trained
from nni_nas_consistency.jobs.rank_job import RankJob, rank
from nni_nas_consistency.jobs.score_job import ScoreJob, score, score_by_each
from nni_nas_consistency.jobs.search_job import Searched, SearchJob, search
from nni_nas_consistency.jobs.shrink_job import ShrinkJob, shrink
from nni_nas_consistency.jobs.standalone_job import StandaloneJob, train_standalone
from nni_nas_consistency.jobs.study_job import StudyJob, study, study_run, study_table, threads
from nni_nas_consistency.jobs.train_job import TrainJob, params_of, train

__all__ = [
    "ChooseImagesJob",
    "ConvertJob",
    "EnsembleJob",
    "EvaluateJob",
    "ExtractJob",
    "Extracted",
    "FitJob",
    "RankJob",
    "ScoreJob",
    "SearchJob",
    "Searched",
    "ShrinkJob",
    "StandaloneJob",
    "StudyJob",
    "TrainJob",
    "choose_images",
    "convert",
    "costs_of",
    "device_of",
    "ensemble",
    "evaluate",
    "extract",
    "first_archs",
    "fit",
    "load_trained",
    "network_header",
    "network_of",
    "params_of",
    "rank",
    "score",
    "score_by_each",
    "search",
    "shrink",
    "study",
    "study_run",
    "study_table",
    "threads",
    "train",
    "train_standalone",
]
