"""`nni-consistency`: each command turns its words into objects (`words.py`), and calls one function.

Exit 0 done, 1 a run failed, 2 bad input with one clear line. Torch, NNI and Lightning take five seconds to import, so
each command imports for itself what needs them.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from nni_nas_consistency.archs.arch import DIGITS, RESNET20, RESNET48
from nni_nas_consistency.cli import parse as words
from nni_nas_consistency.cli.archs import archs_app
from nni_nas_consistency.cli.console import progress, quiet_libraries, say
from nni_nas_consistency.cli.options import (
    Archs,
    Checkpoint,
    DataOption,
    DeviceOption,
    DownloadOption,
    OutFile,
    OutFolder,
    RootOption,
    SeedOption,
    SpaceOption,
)
from nni_nas_consistency.cli.parse import PrecisionWord, ScorerWord
from nni_nas_consistency.cli.train import standalone, train
from nni_nas_consistency.errors import InputError
from nni_nas_consistency.files.arch_lists import read_released
from nni_nas_consistency.files.score_files import read_table
from nni_nas_consistency.files.strict_json import Json

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(archs_app, name="archs")
app.command()(train)
app.command()(standalone)


@app.command()
def quickstart(out: OutFolder = Path("runs/quickstart"), seed: SeedOption = 0) -> None:
    """Train, score, rank and report on the embedded benchmark: minutes on two cores."""
    from nni_nas_consistency.cli.quickstart import run_quickstart

    print("\n".join(run_quickstart(out, seed=seed, provenance=words.provenance())))


@app.command()
def score(
    checkpoint: Checkpoint,
    archs: Archs,
    space: SpaceOption = "resnet20",
    data: DataOption = "cifar100",
    data_root: RootOption = None,
    out: OutFile = Path("scores.json"),
    limit: Annotated[int | None, typer.Option(min=1, help="Score the first N archs of the list.")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Score on the first N test images.")] = None,
    metric: Annotated[Literal["loss", "acc"], typer.Option(help="Negative cross-entropy, or accuracy.")] = "loss",
    bn: Annotated[Literal["supernet", "train", "test", "batch"], typer.Option(help="Batch-norm statistics.")] = "batch",
    batch_size: Annotated[int, typer.Option(min=1, help="Images a batch.")] = 512,
    orders: Annotated[int, typer.Option(min=1, help="Score images in this many orders, so in other batches.")] = 1,
    flip: Annotated[bool, typer.Option("--flip", help="Score images mirrored too.")] = False,
    scorer: Annotated[
        ScorerWord, typer.Option(help="Archs share prefixes, or each runs alone (the reference).")
    ] = "prefix",
    precision: Annotated[PrecisionWord, typer.Option(help="Of the features; bf16 is for GPUs.")] = "float32",
    shard: Annotated[str | None, typer.Option(help="I/N: score the I-th of N parts; the last one merges.")] = None,
    device: DeviceOption = "auto",
    download: DownloadOption = False,
) -> None:
    """Score a list of archs from a supernet, and write the scores and the submission.

    Every finished block of archs is kept in a journal beside --out: after a crash the same command goes on.
    """
    from nni_nas_consistency.scoring.arch_list import Shard, score_list
    from nni_nas_consistency.training.lightning import image_scoring

    part = Shard(1, 1) if shard is None else Shard.parse(shard)
    listed = {name: entry.arch for name, entry in read_released(archs, words.form_of(space)).items()}
    listed = dict(list(listed.items())[:limit])
    place = words.device_of(device)
    test, plain = words.images_of(data, data_root, train=False, download=download)
    test = test if images is None else test.first(images)
    calibration = None
    if bn == "train":
        calibration = words.images_of(data, data_root, train=True, download=download)[0].to(place)
    supernet, about = words.supernet_of(space, checkpoint, test)
    scoring = image_scoring(
        test.to(place),
        plain,
        metric=metric,
        bn=bn,
        batch_size=batch_size,
        train=calibration,
        dtype=words.dtype_of(precision),
        orders=orders,
        flip=flip,
    )
    views: dict[str, Json] = {**({"orders": orders} if orders > 1 else {}), **({"flip": flip} if flip else {})}
    provenance = {"space": space, "checkpoint": about, "list": archs.name, "data": data, "images": len(test)}
    scored = score_list(
        supernet.double().to(place) if precision == "float64" else supernet.to(place),
        listed,
        scoring,
        out=out,
        provenance={**provenance, **views, "batch_size": batch_size, "precision": precision},
        shard=part,
        scorer=words.scorer_of(scorer),
        progress=progress,
    )
    for path in scored.files:
        print(path)


@app.command()
def rank(
    scores: Annotated[Path, typer.Argument(help="Score file, or submission.")],
    reference: Annotated[Path, typer.Argument(help="Reference accuracies in released form.")],
    space: SpaceOption = "resnet20",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    common: Annotated[bool, typer.Option("--common", help="Rank the archs that both files have.")] = False,
    report: Annotated[Path | None, typer.Option(help="Folder for an HTML report with plots.")] = None,
    seed: SeedOption = 0,
    resamples: Annotated[int, typer.Option(min=1, help="Bootstrap resamples for the intervals.")] = 1000,
) -> None:
    """Say how well scores rank archs: Kendall, Pearson, Spearman, with intervals and baselines."""
    from nni_nas_consistency.ranking.compare import compare
    from nni_nas_consistency.ranking.report import lines, write_report

    form = words.form_of(space)
    result = compare(
        read_table(scores, form),
        read_table(reference, form),
        words.space_of(space, None),
        title=f"{scores.name} against {reference.name}",
        provenance={**words.provenance(), "seed": seed},
        common=common,
        seed=seed,
        resamples=resamples,
    )
    if as_json:
        print(json.dumps({"scores": asdict(result.consistency), **{k: asdict(v) for k, v in result.baselines.items()}}))
    else:
        print("\n".join(lines(result)))
    if report is not None:
        print(write_report(result, report), file=sys.stderr if as_json else sys.stdout)


@app.command()
def search(
    checkpoint: Checkpoint,
    space: SpaceOption = "digits",
    data: DataOption = "digits",
    data_root: RootOption = None,
    out: OutFile = Path("searched.json"),
    trials: Annotated[int, typer.Option(min=1, help="Archs to score.")] = 200,
    population: Annotated[int, typer.Option(min=2, help="Archs that live at a time.")] = 50,
    images: Annotated[int | None, typer.Option(min=1, help="Score on the first N test images.")] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    download: DownloadOption = False,
) -> None:
    """Search a trained supernet with NNI's regularized evolution, and write the archs it scored."""
    from nni_nas_consistency.search.evolution import evolve
    from nni_nas_consistency.training.lightning import image_scoring

    place = words.device_of(device)
    test, plain = words.images_of(data, data_root, train=False, download=download)
    test = test if images is None else test.first(images)
    supernet, about = words.supernet_of(space, checkpoint, test)
    provenance: dict[str, Json] = {**words.provenance(), "checkpoint": about, "seed": seed}
    with progress(trials, "archs") as advance:
        best = evolve(
            supernet.to(place),
            image_scoring(test.to(place), plain),
            out=out,
            trials=trials,
            population=population,
            seed=seed,
            provenance=provenance,
            advance=advance,
        )
    print(out)
    print(f"best: {best.code}")


@app.command()
def spaces() -> None:
    """List the search spaces."""
    for form in (RESNET20, DIGITS):
        print(f"{form.space}: {len(form.layers)} layers, {form.size():.3g} archs, largest {form.example()}")
    print(f"{RESNET48.space}: {len(RESNET48.layers)} digits; lists can be checked, the network is not there yet")


@app.command()
def doctor() -> None:
    """Print versions, whether NNI's pieces import, and what is wrong."""
    from nni_nas_consistency.cli.doctor import diagnose

    findings = diagnose()
    for finding in findings:
        print(f"{'ok  ' if finding.ok else 'BAD '} {finding.what}: {finding.told}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def main() -> None:
    """Run the command line."""
    quiet_libraries()
    try:
        app()
    except InputError as error:
        _stop(error, 2)
    except RuntimeError as error:
        _stop(error, 1)
    except KeyboardInterrupt:
        say("interrupted; what was finished is kept: the same command goes on, for train with --resume")
        sys.exit(130)


def _stop(error: Exception, code: int) -> None:
    say(f"error: {error}")
    sys.exit(code)
