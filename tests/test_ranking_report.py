import json
from base64 import b64decode
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.pyplot
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from matplotlib.text import Text

from nni_nas_consistency.ranking.plots import png, rank_plot, scatter_plot
from nni_nas_consistency.ranking.report import Report, as_json, lines, write_report
from nni_nas_consistency.ranking.statistics import Consistency, Interval, rank_consistency

FILES = ["ranks.png", "report.html", "report.json", "scatter.png"]
NASTY = "<script>alert('x')</script>&\"$a_b$"


def consistency_of(first, top):
    values = [round(first + step, 4) for step in (0, 0.1, 0.2)]
    intervals = [Interval(value, round(value - 0.01, 4), round(value + 0.02, 4)) for value in values]
    return Consistency(20, *intervals, top, 0.95)


def report_of(**changes):
    generator = np.random.default_rng(0)
    report = Report(
        title="Supernet on digits",
        settings={
            "space": "digits",
            "images": 256,
            "resume": None,
            "checkpoint": {"recipe": {"lr": 0.1}, "bn": ["a", 1]},
        },
        provenance={"command": "nni-consistency rank a.json b.json", "seed": 3},
        names=[f"arch{index}" for index in range(1, 21)],
        codes=[f"4-{index}" for index in range(1, 21)],
        scores=generator.normal(size=20).tolist(),
        reference=[*generator.random(18).tolist(), 0.5, 0.5],
        consistency=consistency_of(0.6125, {2: 0.5, 10: 0.7}),
        baselines={
            "params": consistency_of(0.3, {2: 0.0, 10: 0.4}),
            "MACs": consistency_of(-0.25, {2: 1.0, 10: 1 / 3}),
        },
    )
    return replace(report, **changes)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of the report above, written once."""
    return write_report(report_of(), tmp_path_factory.mktemp("report")).parent


def page_of(report, folder):
    return write_report(report, folder).read_text(encoding="utf-8")


def rows_of(page):
    """Texts of the cells of every table row; reading fails unless the page is well-formed."""
    rows = ElementTree.fromstring(page).iter("tr")
    return [["".join(cell.itertext()).strip() for cell in row] for row in rows]


def pixels(picture):
    return imread(BytesIO(picture), format="png")[..., :3]


def share_of(picture, colour, tolerance=0.02):
    return float((abs(pixels(picture) - np.array(to_rgb(colour))).max(axis=-1) < tolerance).mean())


def test_the_terminal_table_has_a_column_each_for_supernet_and_baselines():
    assert lines(report_of()) == [
        "Supernet on digits",
        "",
        "           supernet                  params                    MACs",
        "kendall    0.6125 [0.6025, 0.6325]   0.3000 [0.2900, 0.3200]   -0.2500 [-0.2600, -0.2300]",
        "pearson    0.7125 [0.7025, 0.7325]   0.4000 [0.3900, 0.4200]   -0.1500 [-0.1600, -0.1300]",
        "spearman   0.8125 [0.8025, 0.8325]   0.5000 [0.4900, 0.5200]   -0.0500 [-0.0600, -0.0300]",
        "top-2      0.5000                    0.0000                    1.0000",
        "top-10     0.7000                    0.4000                    0.3333",
        "",
        "20 archs; [low, high] is a 95 % bootstrap interval; top-k is the share of the k best that the scores find",
    ]


def test_the_level_of_the_intervals_is_told():
    changed = replace(report_of().consistency, level=0.9)
    assert "a 90 % bootstrap interval" in lines(report_of(consistency=changed, baselines={}))[-1]


def test_json_holds_everything_and_reads_back_exactly(written):
    report = report_of()
    read = json.loads((written / "report.json").read_text(encoding="utf-8"))
    described = ["title", "settings", "provenance", "score_label", "reference_label"]
    assert list(read) == [*described, "consistency", "baselines", "against", "archs"]
    assert (read["title"], read["settings"], read["provenance"]) == (report.title, report.settings, report.provenance)
    assert read["consistency"] == {
        "n": 20,
        "kendall": {"value": 0.6125, "low": 0.6025, "high": 0.6325},
        "pearson": {"value": 0.7125, "low": 0.7025, "high": 0.7325},
        "spearman": {"value": 0.8125, "low": 0.8025, "high": 0.8325},
        "top": {"2": 0.5, "10": 0.7},
        "level": 0.95,
        "absolute_pearson": False,
        "undefined": None,
    }
    assert list(read["baselines"]) == ["params", "MACs"]
    assert read["baselines"]["MACs"]["top"] == {"2": 1.0, "10": 1 / 3}
    kept = [(arch["name"], arch["code"], arch["score"], arch["reference"]) for arch in read["archs"]]
    assert kept == list(zip(report.names, report.codes, report.scores, report.reference, strict=True))
    assert sorted(arch["rank_by_score"] for arch in read["archs"]) == list(range(1, 21))
    best = max(read["archs"], key=lambda arch: arch["score"])
    assert best["rank_by_score"] == 1
    assert read["archs"][18]["rank_by_reference"] == read["archs"][19]["rank_by_reference"]


def test_settings_that_json_does_not_know_are_written_as_text():
    odd = {"clip": float("inf"), "weight": [float("nan"), {1: Path("a")}], "shape": (3, 4), "lr": 0.1}
    text = as_json(report_of(settings=odd, provenance=odd))
    read = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    plain = {"clip": "inf", "weight": ["nan", {"1": "a"}], "shape": [3, 4], "lr": 0.1}
    assert read["settings"] == read["provenance"] == plain


def test_numbers_of_numpy_are_written_as_plain_numbers():
    report = report_of(scores=list(np.linspace(0, 1, 20, dtype=np.float32)))
    assert json.loads(as_json(report))["archs"][1]["score"] == pytest.approx(1 / 19)


def test_one_report_gives_the_same_four_files_twice(written, tmp_path):
    folder = tmp_path / "a" / "new"
    assert write_report(report_of(), folder) == folder / "report.html"
    contents = [{path.name: path.read_bytes() for path in sorted(one.iterdir())} for one in (written, folder)]
    assert list(contents[0]) == FILES
    assert contents[0] == contents[1]


def test_the_page_has_the_numbers_with_intervals_and_baselines(written):
    rows = rows_of((written / "report.html").read_text(encoding="utf-8"))
    assert rows[:6] == [
        ["measure", "supernet", "params", "MACs"],
        ["kendall", "0.6125 [0.6025, 0.6325]", "0.3000 [0.2900, 0.3200]", "-0.2500 [-0.2600, -0.2300]"],
        ["pearson", "0.7125 [0.7025, 0.7325]", "0.4000 [0.3900, 0.4200]", "-0.1500 [-0.1600, -0.1300]"],
        ["spearman", "0.8125 [0.8025, 0.8325]", "0.5000 [0.4900, 0.5200]", "-0.0500 [-0.0600, -0.0300]"],
        ["top-2", "0.5000", "0.0000", "1.0000"],
        ["top-10", "0.7000", "0.4000", "0.3333"],
    ]
    assert ["images", "256"] in rows
    assert ["resume", "None"] in rows
    assert ["checkpoint recipe lr", "0.1"] in rows
    assert ["checkpoint bn", '["a", 1]'] in rows
    assert ["command", "nni-consistency rank a.json b.json"] in rows
    assert ["seed", "3"] in rows


def test_absolute_pearson_is_named_so_in_table_page_and_json(tmp_path):
    consistency = replace(report_of().consistency, absolute_pearson=True)
    report = report_of(consistency=consistency, baselines={"MACs": consistency})
    assert lines(report)[4] == "|pearson|   0.7125 [0.7025, 0.7325]   0.7125 [0.7025, 0.7325]"
    assert ["|pearson|", *["0.7125 [0.7025, 0.7325]"] * 2] in rows_of(page_of(report, tmp_path))
    read = json.loads(as_json(report))["baselines"]["MACs"]
    assert (read["pearson"]["value"], read["absolute_pearson"]) == (0.7125, True)


def report_of_ranks(scores):
    """Return a report of archs whose reference accuracies fall from the first to the last."""
    count = len(scores)
    return report_of(
        names=[f"arch{index}" for index in range(1, count + 1)],
        codes=[f"4-{index}" for index in range(1, count + 1)],
        scores=scores,
        reference=[float(index) for index in range(count, 0, -1)],
        consistency=replace(report_of().consistency, n=count),
        baselines={},
    )


def listed_on(page):
    return [row for row in rows_of(page) if row[0].startswith("arch") and row[0] != "arch"]


def test_the_page_lists_the_archs_whose_ranks_differ_most(tmp_path):
    scores = [float(index) for index in range(20, 0, -1)]
    scores[0], scores[19] = scores[19], scores[0]
    scores[3], scores[8] = scores[8], scores[3]
    assert listed_on(page_of(report_of_ranks(scores), tmp_path)) == [
        ["arch1", "20", "1", "1.0000", "20.000", "4-1"],
        ["arch20", "1", "20", "20.000", "1.0000", "4-20"],
        ["arch4", "9", "4", "12.000", "17.000", "4-4"],
        ["arch9", "4", "9", "17.000", "12.000", "4-9"],
    ]


@pytest.mark.parametrize("archs, count", [(4, 0), (9, 1), (200, 15)])
def test_the_page_lists_at_most_fifteen_archs_and_a_fifth_of_all(tmp_path, archs, count):
    page = page_of(report_of_ranks([float(index) for index in range(archs)]), tmp_path)
    assert len(listed_on(page)) == count
    assert ("Most misranked archs" in page) == ("Orange" in page) == (count > 0)


def test_no_text_of_the_caller_becomes_markup(written, tmp_path):
    names, codes = ([f"{NASTY}{kind}{index}" for index in range(20)] for kind in ("name", "code"))
    nasty = report_of(
        title=NASTY,
        settings={NASTY: NASTY},
        provenance={NASTY: NASTY},
        names=names,
        codes=codes,
        baselines={NASTY: report_of().consistency},
        score_label=NASTY,
        reference_label=NASTY,
    )
    text = page_of(nasty, tmp_path)
    page = ElementTree.fromstring(text)
    plain = ElementTree.fromstring((written / "report.html").read_text(encoding="utf-8"))
    assert "<script" not in text
    assert {element.tag for element in page.iter()} == {element.tag for element in plain.iter()}
    texts = list(page.itertext())
    assert texts.count(NASTY) == 7
    assert len({f"{NASTY}name{index}" for index in range(20)} & set(texts)) == 4
    assert len({f"{NASTY}code{index}" for index in range(20)} & set(texts)) == 4
    assert f"One point per arch: {NASTY} against {NASTY}." in texts


def test_the_page_is_self_contained(written):
    text = (written / "report.html").read_text(encoding="utf-8")
    elements = list(ElementTree.fromstring(text).iter())
    for word in ("http://", "https://", "url(", "@import", "<script", "<link", "<iframe"):
        assert word not in text
    sources = [
        element.attrib[key] for element in elements for key in ("src", "srcset", "href") if key in element.attrib
    ]
    heads, pictures = zip(*(source.split(",") for source in sources), strict=True)
    assert set(heads) == {"data:image/png;base64"}
    decoded = [b64decode(picture) for picture in pictures]
    assert decoded[1] == (written / "scatter.png").read_bytes()
    assert decoded[3] == (written / "ranks.png").read_bytes()
    assert [bool(pixels(picture)[0, 0].mean() < 0.5) for picture in decoded] == [True, False, True, False]
    assert "prefers-color-scheme: dark" in text
    viewport = {"name": "viewport", "content": "width=device-width, initial-scale=1"}
    assert viewport in [element.attrib for element in elements]


def test_a_report_without_baselines_settings_or_provenance_says_so(tmp_path):
    rows = rows_of(page_of(report_of(settings={}, provenance={}, baselines={}), tmp_path))
    assert rows[0] == ["measure", "supernet"]
    assert rows.count(["none given"]) == 2


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"names": ["arch1"], "scores": [0.5] * 19},
            "1 names, 20 codes, 19 scores, 20 reference accuracies do not fit a consistency over 20 archs",
        ),
        (
            {"scores": [0.5] * 19 + [float("nan")]},
            "arch20 has score nan and reference 0.5; both must be finite",
        ),
        (
            {"scores": [0.5] * 20, "reference": [float("inf")] + [0.5] * 19},
            "arch1 has score 0.5 and reference inf; both must be finite",
        ),
        (
            {"baselines": {"params": consistency_of(0.3, {3: 0.0})}},
            "baseline params has n = 20, k = 3, level 0.95, pearson, "
            "the scores have n = 20, k = 2, 10, level 0.95, pearson; rank the same archs with the same arguments",
        ),
        (
            {"baselines": {"MACs": replace(consistency_of(0.3, {2: 0.0, 10: 0.4}), absolute_pearson=True)}},
            "baseline MACs has n = 20, k = 2, 10, level 0.95, |pearson|, "
            "the scores have n = 20, k = 2, 10, level 0.95, pearson; rank the same archs with the same arguments",
        ),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(changes, message):
    with pytest.raises(ValueError) as error:
        report_of(**changes)
    assert str(error.value) == message


def test_a_ranking_of_real_numbers_reaches_page_and_table(tmp_path):
    report = report_of(baselines={})
    measured = rank_consistency(report.scores, report.reference, resamples=50)
    report = replace(report, consistency=measured)
    cell = f"{measured.kendall.value:.4f} [{measured.kendall.low:.4f}, {measured.kendall.high:.4f}]"
    assert ["kendall", cell] in rows_of(page_of(report, tmp_path))
    assert f"kendall    {cell}" in lines(report)


@pytest.mark.parametrize("plot", [scatter_plot, rank_plot])
def test_a_plot_is_the_same_twice_and_shows_its_points(plot):
    report = report_of()
    pictures = [png(plot(report.scores, report.reference, title="one")) for _ in range(2)]
    assert pictures[0] == pictures[1]
    assert pictures[0] != png(plot(report.scores[::-1], report.reference, title="one"))
    assert pictures[0] != png(plot(report.scores, report.reference, title="two"))
    assert b"matplotlib" not in pictures[0]
    blue = pixels(pictures[0])[..., 2] - pixels(pictures[0])[..., 0] > 0.3
    assert 0.001 < blue.mean() < 0.2
    assert share_of(pictures[0], "#ffffff") > 0.5
    assert share_of(png(plot(report.scores, report.reference, title="one", dark=True)), "#171b21") > 0.5
    assert matplotlib.pyplot.get_fignums() == []


def test_the_scatter_plot_puts_each_arch_at_its_reference_and_score():
    figure = scatter_plot([3.0, 1.0, 2.0], [0.5, 0.25, 0.75], title="t", note="Kendall 0.3333", score_label="s")
    axes = figure.axes[0]
    assert axes.collections[0].get_offsets().tolist() == [[0.5, 3.0], [0.25, 1.0], [0.75, 2.0]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("reference accuracy (fraction correct)", "s")
    assert axes.get_title(loc="left") == "t"
    assert [text.get_text() for text in axes.texts] == ["N = 3 archs · Kendall 0.3333"]


def test_dollar_signs_in_a_picture_are_no_formulas():
    words = {"title": "$t$", "note": "$n$", "score_label": "$s$", "reference_label": "$r$"}
    figure = scatter_plot([3.0, 1.0], [0.5, 0.25], **words)
    texts = {text.get_text(): text.get_parse_math() for text in figure.findobj(Text) if "$" in text.get_text()}
    assert texts == dict.fromkeys(("$t$", "N = 2 archs · $n$", "$s$", "$r$"), False)


def test_the_rank_plot_has_the_best_at_the_top_right_the_diagonal_and_marked_archs():
    figure = rank_plot([3.0, 1.0, 2.0, 2.0], [0.5, 0.25, 0.75, 0.1], title="t", marked=[3, 0])
    axes = figure.axes[0]
    assert axes.collections[0].get_offsets().tolist() == [[3, 4], [1, 2.5]]
    assert axes.collections[1].get_offsets().tolist() == [[4, 2.5], [2, 1]]
    assert axes.lines[0].get_xydata().tolist() == [[1, 1], [4, 4]]
    assert axes.xaxis_inverted() and axes.yaxis_inverted()
    assert share_of(png(figure), "#d55e00") > 0.0001
    assert [text.get_text() for text in axes.texts] == ["N = 4 archs"]


def test_the_report_highlights_the_listed_archs_in_the_rank_plot(written):
    assert share_of((written / "ranks.png").read_bytes(), "#d55e00") > 0.0002
    assert share_of((written / "scatter.png").read_bytes(), "#d55e00") == 0
