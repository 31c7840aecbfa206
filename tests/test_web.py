"""In a headless Chromium: NNI's web page of a real experiment, and the report of a ranking.

Needs Debian's `chromium` and playwright; skipped without them. Reaches nothing but 127.0.0.1 and files.
"""

import os
import re
import shutil
from importlib.resources import files

import pytest
import torch
from command import run
from helpers import free_port, keep_nni_in, listening_addresses, random_archs, tiny_space, tiny_supernet, wait_for
from nni.nas.evaluator import FunctionalEvaluator

from nni_nas_consistency import (
    ReleasedArchs,
    RetiariiExeConfig,
    RetiariiExperiment,
    image_scoring,
    save_supernet,
    score_subnet,
)
from nni_nas_consistency.images.augmentation import DIGITS_TEST
from nni_nas_consistency.images.datasets import digits

CHROMIUM = shutil.which("chromium")
SCREENSHOT = os.environ.get("NNI_NAS_CONSISTENCY_SCREENSHOT")
"""Where the picture of the web page goes that the docs show: docs/web-ui.png."""

COLOURED = """() => {
  const canvas = document.querySelector("canvas");
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let coloured = 0;
  for (let i = 0; i < pixels.length; i += 4) {
    const [low, high] = [Math.min, Math.max].map((extreme) => extreme(...pixels.slice(i, i + 3)));
    coloured += pixels[i + 3] > 0 && high - low > 40;
  }
  return coloured;
}"""
"""Counts the coloured pixels of a figure on NNI's page: axes and grid are grey, curves are not."""

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install '.[dev]'")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


# The report of a ranking.


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The page of a ranking of the embedded benchmark by itself."""
    folder = tmp_path_factory.mktemp("report")
    reference = files("nni_nas_consistency") / "assets" / "digits" / "reference.json"
    run("rank", reference, reference, "--space", "digits", "--resamples", 20, "--report", folder)
    return (folder / "report.html").as_uri()


@pytest.fixture(params=["light", "dark"])
def narrow(request, browser, report):
    """The report on a telephone, after it was loaded, and the addresses that were asked for."""
    context = browser.new_context(color_scheme=request.param, viewport={"width": 360, "height": 740})
    page, asked = context.new_page(), []
    page.on("request", lambda each: asked.append(each.url))
    page.goto(report, wait_until="networkidle")
    yield request.param, page, [url for url in asked if not url.startswith("data:")]
    context.close()


def test_the_report_is_light_or_dark_as_the_reader_wants_and_its_plots_too(narrow):
    scheme, page, _ = narrow
    paper, ink = (brightness(page, f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color"))
    assert (paper > 200 and ink < 60) if scheme == "light" else (paper < 60 and ink > 200)
    shown = page.evaluate("[...document.images].map((each) => [each.currentSrc, each.src, each.naturalWidth])")
    assert len(shown) == 2
    for current, light, width in shown:
        assert width > 500 and (current == light) == (scheme == "light")


def brightness(page, colour):
    """Return the mean of red, green and blue of a colour, 0 to 255."""
    channels = [int(number) for number in re.findall(r"\d+", page.evaluate(colour))[:3]]
    return sum(channels) / 3


def test_the_report_fits_a_narrow_screen_and_no_request_leaves_it(narrow, report):
    _, page, asked = narrow
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert asked == [report]


def test_what_is_wider_than_the_screen_is_scrolled_by_the_keyboard(narrow):
    _, page, _ = narrow
    wide = page.locator(".wide").count()
    assert wide >= 1
    reached = []
    for _ in range(wide):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.getAttribute('aria-label')"))
        before = page.evaluate("document.activeElement.scrollLeft")
        hidden = page.evaluate("document.activeElement.scrollWidth - document.activeElement.clientWidth")
        page.keyboard.press("End") if hidden == 0 else page.keyboard.press("ArrowRight")
        if hidden > 0:
            page.wait_for_function("before => document.activeElement.scrollLeft > before", arg=before)
    assert reached == page.evaluate("[...document.querySelectorAll('.wide')].map((each) => each.ariaLabel)")


# NNI's web page.


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """Two released archs, scored by trials of NNI's local training service: address of the page, archs, scores."""
    folder = tmp_path_factory.mktemp("experiment")
    supernet = tiny_supernet(torch.float32)
    save_supernet(folder / "supernet.safetensors", supernet, {})
    archs = {f"released{i}": arch for i, arch in enumerate(random_archs(supernet.domain, 2), 1)}
    evaluator = FunctionalEvaluator(
        score_subnet,
        scoring=lambda: image_scoring(digits(train=False).first(60), DIGITS_TEST, batch_size=20),
        checkpoint=str(folder / "supernet.safetensors"),
    )
    config = RetiariiExeConfig("local", trial_concurrency=2, max_trial_number=2, experiment_working_directory=folder)
    config.experiment_name = "two released archs"
    with pytest.MonkeyPatch.context() as patch:
        keep_nni_in(folder, patch)
        strategy, port = ReleasedArchs(archs), free_port()
        run_of_nni = RetiariiExperiment(tiny_space(), evaluator, strategy, config)
        try:
            run_of_nni.run(None, port)
            assert listening_addresses(port) == {"127.0.0.1"}
            wait_for(lambda: finished(run_of_nni), seconds=300)
            yield f"http://127.0.0.1:{port}", archs, list(strategy.scores().values())
        finally:
            run_of_nni.stop()
    assert listening_addresses(port) == set()


def finished(run_of_nni):
    counts = {each["trialJobStatus"]: each["trialJobNumber"] for each in run_of_nni.get_job_statistics()}
    return counts == {"SUCCEEDED": 2}


@pytest.fixture(scope="module")
def trials(experiment, browser):
    """The page of the trials; what it asks of other servers is refused."""
    address, _, _ = experiment
    context = browser.new_context(viewport={"width": 1280, "height": 1280})
    context.route(lambda url: not url.startswith(f"{address}/"), lambda route: route.abort())
    page = context.new_page()
    page.goto(f"{address}/detail")
    sync_api.expect(page.get_by_text("SUCCEEDED")).to_have_count(2, timeout=60_000)
    yield page
    context.close()


def test_the_page_shows_the_name_and_the_final_metrics(experiment, trials):
    address, _, scores = experiment
    assert len(scores) == 2
    for score in scores:
        sync_api.expect(trials.get_by_text(f"{round(score, 6)} (FINAL)").first).to_be_visible()
    overview = trials.context.new_page()
    overview.goto(f"{address}/oview")
    sync_api.expect(overview.get_by_text("two released archs").first).to_be_visible(timeout=60_000)
    overview.close()


def test_the_page_draws_the_intermediate_results_and_lines_through_the_choices(trials):
    trials.get_by_text("Hyper-parameter").click()
    sync_api.expect(trials.get_by_text("w19", exact=True)).to_be_visible()
    assert "[object Object]" not in trials.inner_text("body")
    trials.get_by_text("Intermediate result", exact=True).click()
    trials.wait_for_function(f"({COLOURED})() > 200")


def test_the_parameters_of_a_trial_are_a_name_a_code_and_choices(experiment, trials, tmp_path):
    _, archs, _ = experiment
    trials.locator("[role=row] i[data-icon-name=ChevronRight]").first.click()
    sync_api.expect(trials.get_by_text("Copy as json")).to_be_visible()
    shown = re.sub(r":\s*", ":", trials.locator(".ms-DetailsList").inner_text())
    name = re.search(r'arch:"(released\d)"', shown)[1]
    read_by_network = {label: width for label, width in archs[name].choices.items() if label != "w20"}
    assert f'code:"{tiny_space().arch(read_by_network).code}"' in shown
    for label, width in read_by_network.items():
        assert re.search(rf"\b{label}:{width}\b", shown)
    assert re.search(r'model:"[^"]*\.model\.json"', shown) and "__nni_type__" not in shown
    trials.screenshot(path=SCREENSHOT or tmp_path / "web-ui.png")
