"""report --html: the page in a real browser, its size, and what must not be in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attnprof import load
from attnprof.check.check_run import CheckedCall, Verdict
from attnprof.dispatch import predict
from attnprof.model import AttentionCall, KernelLaunch
from attnprof.report.html import draw_charts
from attnprof.report.step_charts import charts
from tests.conftest import TESTS
from tests.support.chromium import chromium, console, prefer, requests
from tests.support.command import attnprof
from tests.support.generated_run import (
    H100,
    LAYER_KERNELS,
    OtherKernel,
    calls_only_run,
    decode_call,
    generated_run,
)
from tests.support.hybrid_trace import full, hybrid_trace, sliding

TRACES = TESTS / "data" / "traces"
MARKUP = "</script><img src=x onerror=\"document.title='owned'\"><b>{{ 7 * 7 }}</b>"
TOKEN = "hf_" + "aB3d" * 9
SECRETS = {
    "command": [
        "attnprof",
        "run",
        "--",
        "env",
        f"HF_TOKEN={TOKEN}",
        "python",
        "/home/alice/x.py",
        "-k",
        TOKEN,
    ],
    "workload": {"versions": {"torch": "2.13.0", "flash_attn": "2.8.3"}, "device": "cuda"},
}
SIZE_LIMIT = 2_000_000  # bytes


def spent(call: AttentionCall) -> int:
    return 3000 + 10 * call.seqlen_k


def one_more_split(launches: list[KernelLaunch]) -> list[KernelLaunch]:
    gx, gy, gz = launches[0].grid
    return [replace(launches[0], grid=(gx, gy + 1, gz)), *launches[1:]]


def write_page(name: str, path: Path) -> str:
    done = attnprof("report", name, "--html", str(path))
    assert done.code == 0, done.err
    assert f"wrote {path}" in done.err
    return path.read_text(encoding="utf-8")


def data_of(html: str) -> dict[str, Any]:
    """What the page's script reads."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    parsed: dict[str, Any] = json.loads(found[1])
    return parsed


@pytest.fixture
def observed(tmp_path: Path) -> Path:
    """The page of a run with kernels: 40 decode steps of two layers, one call with a split too many."""
    others = (*LAYER_KERNELS, OtherKernel(MARKUP, 700, 900))
    generated_run(
        tmp_path, range(120, 160), spoil={37: one_more_split}, others=others, attention_ns=spent,
        prefill=119, name=f"run-{MARKUP.replace('/', '')}"[:60], config=SECRETS,
    )  # fmt: skip
    path = tmp_path / "observed.html"
    assert attnprof("report", "--html", str(path)).code == 0
    return path


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    with chromium(tmp_path / "profile") as session:
        yield session


def texts(browser: Any, selector: str) -> list[str]:
    return [element.text for element in browser.find_elements("css selector", selector)]


def test_the_page_holds_no_token_no_variable_and_no_home_folder(observed: Path) -> None:
    html = observed.read_text(encoding="utf-8")
    assert TOKEN not in html
    assert "/home/alice" not in html
    assert str(Path.home()) + "/" not in html
    assert "HF_TOKEN=&lt;redacted&gt; python ~/x.py" in html, re.findall("<dt>command.*", html)


def test_names_cannot_become_markup(observed: Path) -> None:
    html = observed.read_text(encoding="utf-8")
    assert "<img" not in html
    assert "{{ 7 * 7 }}" in html
    assert html.count("</script>") == 4  # the calls, the kernels twice, the script


def test_the_page_asks_for_nothing_but_itself(observed: Path) -> None:
    html = observed.read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", html)
    assert not re.search(r"@import|url\(\s*[\"']?http", html)
    assert "default-src 'none'" in html


def test_one_derivation_is_held_per_distinct_call(tmp_path: Path) -> None:
    calls_only_run("calls", range(120, 140), layers=4)
    data = data_of(write_page("calls", tmp_path / "calls.html"))
    assert len(data["shapes"]) == 20
    assert sum(group[6] for group in data["groups"]) == 80
    for shape in data["shapes"]:
        rules = [data["strings"][rule] for rule, _, _ in shape["reasons"]]
        assert "num_splits" in rules
        assert not shape["observed"]


def test_what_the_page_says_of_each_call_is_what_the_check_says(tmp_path: Path) -> None:
    generated_run(tmp_path, range(120, 160), spoil={37: one_more_split}, attention_ns=spent)
    data = data_of(write_page("generated", tmp_path / "page.html"))
    told = []
    for step, phase, shape, _, seq, layer, count, ns in data["groups"]:
        about = data["shapes"][shape]
        verdict = data["strings"][about["verdict"]]
        told += [
            (seq + i, step, data["strings"][phase], layer + i, about["splits"], verdict, ns[i])
            for i in range(count)
        ]
    calls = load("generated").check().calls
    assert told == [
        (c.seq, c.step, c.phase, c.layer, c.num_splits, c.verdict.value, c.duration_ns) for c in calls
    ]


@pytest.mark.parametrize(("steps", "kind", "columns"), [((5, 7), "step", 3), ((5, 10**12), "call", 2)])
def test_step_numbers_far_apart_are_taken_call_by_call(
    steps: tuple[int, ...], kind: str, columns: int
) -> None:
    predicted = predict(decode_call(129), H100)
    calls = [
        CheckedCall(Verdict.NOT_OBSERVED, "", seq, step, "decode", 0, predicted=predicted)
        for seq, step in enumerate(steps)
    ]
    (chart,) = charts(calls, [], [-1] * len(calls))
    assert (chart.columns.kind, len(chart.columns.marks)) == (kind, columns)
    (drawing,) = draw_charts([chart])
    assert len(drawing.bars) == (2 if kind == "step" else 1)


@pytest.mark.parametrize("kernels", [False, True], ids=["predicted", "observed"])
def test_512_steps_of_28_layers_stay_under_2_mb(tmp_path: Path, kernels: bool) -> None:
    if kernels:
        generated_run(tmp_path, range(26, 538), layers=28, attention_ns=spent, name="large")
    else:
        calls_only_run("large", range(26, 538), layers=28)
    html = write_page("large", tmp_path / "large.html")
    assert sum(group[6] for group in data_of(html)["groups"]) == 512 * 28
    assert len(html.encode()) < SIZE_LIMIT


@pytest.mark.parametrize("path", sorted(TRACES.glob("*.gz")), ids=lambda path: path.name)
def test_every_trace_makes_a_page_without_console_errors(path: Path, tmp_path: Path, browser: Any) -> None:
    page = tmp_path / "page.html"
    write_page(str(path), page)
    browser.get(page.as_uri())
    assert console(browser) == []
    kernels = len(load(path).kernels.name.unique())
    assert len(texts(browser, "#kernel-table tbody tr")) == kernels


def test_the_page_renders_sorts_filters_and_opens_derivations(observed: Path, browser: Any) -> None:
    browser.get(observed.as_uri())
    assert console(browser) == []
    assert browser.title.endswith("attnprof")
    assert "Check failed" in texts(browser, ".verdict")[0]
    findings = texts(browser, "#findings tbody tr")
    assert len(findings) == 1
    assert findings[0].startswith("37 decode 18 1 wrong num_splits ran 3 splits; predicted 2")

    def kernel_names() -> list[str]:
        rows = browser.find_elements("css selector", "#kernel-table tbody tr")
        return [row.find_element("css selector", "summary").text for row in rows if row.is_displayed()]

    everything = kernel_names()
    assert len(everything) == 9
    header = browser.find_elements("css selector", "#kernel-table th button")[0]
    header.click()
    assert kernel_names() == sorted(everything, key=str.lower)
    header.click()
    assert kernel_names() == sorted(everything, key=str.lower, reverse=True)
    assert header.find_element("xpath", "..").get_attribute("aria-sort") == "descending"
    browser.find_element("css selector", "#kernel-filter [name=text]").send_keys("SPLITKV")
    assert {name.partition("_kernel")[0] for name in kernel_names()} == {
        "flash_fwd_splitkv", "flash_fwd_splitkv_combine"
    }  # fmt: skip
    assert browser.find_element("id", "kernel-count").text == "2 of 9 kernels"

    step = browser.find_element("css selector", "#call-filter [name=step]")
    step.send_keys("10")
    assert browser.find_element("id", "call-count").text == "2 of 82 calls"
    assert len(texts(browser, "#call-table tbody tr")) == 2
    button = browser.find_element("css selector", "#call-table tbody button")
    button.click()
    opened = texts(browser, ".derivation")
    assert len(opened) == 1
    for part in (
        "seqlen_k 129",
        "num_splits",
        "key blocks",
        "grid 1x2x4",
        "predicted, not observed",
        "match",
    ):
        assert part in opened[0]
    button.click()
    assert texts(browser, ".derivation") == []
    assert console(browser) == []
    assert browser.title.endswith("attnprof")  # no name of the trace has run as script


def test_the_timeline_tells_each_step_and_its_reason_by_mouse_and_by_keyboard(
    observed: Path, browser: Any
) -> None:
    from selenium.webdriver import ActionChains, Keys

    browser.get(observed.as_uri())
    chart, readout = browser.find_element("id", "chart"), browser.find_element("id", "readout")
    ActionChains(browser).move_to_element(chart).perform()
    assert re.match(r"Decode step (20|21)\n", readout.text)
    assert "smallest of" in readout.text or "candidates" in readout.text
    chart.send_keys(Keys.HOME)
    # One odd call makes its layer a kind of its own.
    assert readout.text.startswith("Decode step 1\nflash_fwd_kernel 1 split, 120 keys, layer 0")
    for _ in range(9):
        chart.send_keys(Keys.ARROW_RIGHT)
    assert readout.text.startswith("Decode step 10\n")
    assert "2 splits, 129 keys" in readout.text
    assert "observed" in readout.text
    assert chart.get_attribute("aria-valuenow") == "10"
    chart.send_keys(Keys.ENTER)
    assert "seqlen_k 129" in texts(browser, ".derivation")[0]
    assert console(browser) == []


def test_a_prediction_is_never_shown_as_observed(tmp_path: Path, browser: Any) -> None:
    calls_only_run("calls", range(120, 140))
    page = tmp_path / "calls.html"
    write_page("calls", page)
    browser.get(page.as_uri())
    browser.find_element("css selector", "#call-table tbody button").click()
    browser.find_element("id", "chart").send_keys("x")
    badges = set(texts(browser, ".badge"))
    assert badges == {"predicted, not observed"}
    assert set(texts(browser, "#call-table td.source-predicted")) == {"predicted"}
    assert browser.find_elements("css selector", "svg rect.bar:not(.would)") == []
    assert "Check passed" not in browser.find_element("tag name", "main").text


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_screenshot_shows_the_timeline_in_the_readers_colours(
    observed: Path, browser: Any, tmp_path: Path, dark: bool
) -> None:
    image = pytest.importorskip("matplotlib.image")
    prefer(browser, dark=dark)
    browser.get(observed.as_uri())
    browser.execute_script("document.getElementById('timeline').scrollIntoView()")
    picture = tmp_path / "page.png"
    browser.save_screenshot(str(picture))
    pixels = (image.imread(str(picture))[..., :3] * 255).round().astype(int)
    ground = (20, 24, 29) if dark else (255, 255, 255)
    assert (pixels[-1, 3] == ground).all()
    assert (pixels == ground).all(axis=-1).mean() > 0.4

    def seen(colour: tuple[int, int, int]) -> float:
        return float((abs(pixels - colour).max(axis=-1) <= 3).mean())

    plain, split = ((74, 168, 224), (240, 138, 60)) if dark else ((0, 114, 178), (213, 94, 0))
    assert seen(plain) > 0.004
    assert seen(split) > 0.02
    width = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    assert width <= 0


@pytest.mark.parametrize("scene", ["hybrid", "qwen"])
def test_at_400_pixels_only_boxes_scroll_sideways(scene: str, browser: Any, tmp_path: Path) -> None:
    trace = TRACES / "torch_h100_qwen1.5-0.5b_pytorch_flash.json.gz"
    if scene == "hybrid":
        trace = hybrid_trace(
            tmp_path / "t.json", [full if layer % 6 == 5 else sliding for layer in range(12)]
        )
    page = tmp_path / "page.html"
    write_page(str(trace), page)
    size = {"width": 400, "height": 900, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") == 400
    outside = (
        "return [...document.querySelectorAll('main *')].filter((one) => !one.closest('.scroll, svg, .skip')"
        " && one.getBoundingClientRect().right > innerWidth + 1).map((one) => one.outerHTML.slice(0, 80))"
    )
    assert browser.execute_script(outside) == []
    narrowest = (
        "return Math.min(...[...document.querySelectorAll('#gpu-table td:first-child, td.prose')]"
        ".map((one) => one.clientWidth))"
    )
    assert browser.execute_script(narrowest) >= 200


def test_opening_the_page_makes_no_request(observed: Path, browser: Any) -> None:
    browser.get(observed.as_uri())
    assert [url for url in requests(browser) if not url.startswith("data:")] == [observed.as_uri()]


def test_a_page_that_cannot_be_written_is_an_error_that_says_where(tmp_path: Path) -> None:
    calls_only_run("calls", range(120, 124))
    done = attnprof("report", "calls", "--html", str(tmp_path / "nowhere" / "page.html"))
    assert done.code == 2
    assert "cannot write" in done.err
    assert "Traceback" not in done.err
