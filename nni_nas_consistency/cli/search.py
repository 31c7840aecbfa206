"""`nni-consistency search`: evolution or random search on a trained supernet, within bounds on what archs cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from nni_nas_consistency import jobs
from nni_nas_consistency.cli import parse
from nni_nas_consistency.cli.console import command_line, kept_in_journal, progress, say, saying_what_is_kept
from nni_nas_consistency.cli.options import (
    BatchSizeOption,
    CacheOption,
    CalibrationImagesOption,
    Checkpoint,
    DataOption,
    DeviceOption,
    DownloadOption,
    MaxMacsOption,
    OutFile,
    OverwriteScoresOption,
    RootOption,
    ScoringMetricOption,
    SeedOption,
    ShrunkOption,
    SpaceOption,
    StatisticsOption,
    TestImagesOption,
    ValFilesOption,
    ValFractionOption,
    WorkersOption,
    count_option,
)
from nni_nas_consistency.errors import InputError
from nni_nas_consistency.files.provenance import provenance
from nni_nas_consistency.files.score_files import journal_beside
from nni_nas_consistency.search.pareto import pareto_lines


def search(
    context: typer.Context,
    checkpoint: Checkpoint,
    space: SpaceOption = None,
    data: DataOption = None,
    data_root: RootOption = None,
    val_fraction: ValFractionOption = None,
    val_files: ValFilesOption = None,
    cache: CacheOption = None,
    workers: WorkersOption = None,
    out: OutFile = Path("searched.json"),
    trials: Annotated[
        int,
        count_option(
            "--trials", "Number of archs to score.", most=100_000, why="NNI keeps all of them in memory, as networks"
        ),
    ] = 200,
    strategy: Annotated[
        Literal["evolution", "random"],
        typer.Option(help="NNI's regularized evolution, or its random search."),
    ] = "evolution",
    population: Annotated[
        int | None,
        count_option(
            "--population",
            "Population size of an evolution; by default 50.",
            least=2,
            most=10_000,
            why="the first population is drawn at random",
        ),
    ] = None,
    max_macs: MaxMacsOption = None,
    max_params: Annotated[str | None, typer.Option(help="Most parameters of an arch, such as 250k.")] = None,
    max_latency_ms: Annotated[
        str | None, typer.Option(help="Longest latency of an arch on this machine, in milliseconds.")
    ] = None,
    latency_batch: Annotated[
        int | None,
        count_option(
            "--latency-batch",
            "Images per batch whose latency is measured; by default 1.",
            most=10_000,
            why="a batch must fit into memory",
        ),
    ] = None,
    latency_file: Annotated[
        Path | None, typer.Option(help="File of measured latencies, looked up and added to; by default beside --out.")
    ] = None,
    pareto: Annotated[
        Path | None, typer.Option(help="Write the Pareto set of score against cost into this folder, and print it.")
    ] = None,
    pareto_cost: Annotated[
        Literal["macs", "params", "latency"] | None,
        typer.Option(help="The cost of the Pareto set; by default one that is bounded, else MACs."),
    ] = None,
    shrunk: ShrunkOption = None,
    metric: ScoringMetricOption = "loss",
    bn: StatisticsOption = None,
    batch_size: BatchSizeOption = 512,
    calibration_images: CalibrationImagesOption = None,
    images: TestImagesOption = None,
    seed: SeedOption = 0,
    overwrite: OverwriteScoresOption = False,
    device: DeviceOption = "auto",
    download: DownloadOption = False,
) -> None:
    """Search a trained supernet by one of NNI's strategies; write all scored archs and print the best.

    Archs beyond a bound are never scored. Latency is the median of 31 runs, on the device of the search.
    """
    population = parse.strategy_of(strategy, population)
    macs, params = parse.count_of("--max-macs", max_macs), parse.count_of("--max-params", max_params)
    latency = parse.milliseconds_of("--max-latency-ms", max_latency_ms)
    cost = parse.pareto_cost_of(pareto, pareto_cost, macs, params, latency)
    folder = parse.FolderWords(
        data_root,
        val_fraction=val_fraction,
        val_files=val_files,
        cache=cache,
        workers=workers,
    )
    system, data_set = parse.system_and_data(space, data, checkpoint=checkpoint, folder=folder)
    data_set.check_count("--images", images, train=False)
    statistics = parse.statistics_of(system, bn, "batch")
    parse.calibration_of(data_set, statistics, calibration_images)
    system = parse.shrunk(system, shrunk)
    job = jobs.SearchJob(
        system,
        data_set,
        checkpoint,
        out,
        strategy=strategy,
        trials=trials,
        population=population,
        max_macs=macs,
        max_params=params,
        max_latency_ms=latency,
        latency_batch=latency_batch or 1,
        latency_file=latency_file,
        pareto=pareto,
        pareto_cost=cost,
        metric=metric,
        bn=statistics,
        batch_size=batch_size,
        calibration_images=calibration_images,
        overwrite=overwrite,
        images=images,
        data_root=data_root,
        download=download,
        seed=seed,
        device=device,
        provenance=provenance(command_line(context)),
    )
    if not job.measures_latency and (latency_batch is not None or latency_file is not None):
        option = "--latency-batch" if latency_batch is not None else "--latency-file"
        raise InputError(f"{option} belongs to --max-latency-ms or --pareto-cost latency; leave it out, or give one")
    with saying_what_is_kept(lambda: kept_in_journal(journal_beside(out))):
        searched = jobs.search(job, progress=progress)
    if searched.archs < trials:
        say(f"{searched.archs} archs were found and scored, not {trials}")
    for path in searched.files:
        print(path)
    print(f"best: {searched.best.code}")
    for line in pareto_lines(searched.pareto):
        print(line)
