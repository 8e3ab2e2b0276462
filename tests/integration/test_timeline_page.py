"""The page's kernel timeline in a real browser: zoom, steps, changes, search, calls, and without a script."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bench_page import measure
from benchmarks.synthetic import write_sqlite
from tests.support.chromium import chromium, console
from tests.support.command import attnprof
from tests.support.hybrid_trace import full, hybrid_trace, sliding


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as session:
        yield session


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of 8 steps of 12 layers, two of them full; these split otherwise from step 3 on."""
    folder = tmp_path_factory.mktemp("hybrid")
    layers = [full if layer % 6 == 5 else sliding for layer in range(12)]
    return page_of(hybrid_trace(folder / "t.json", layers, steps=8, keys=1278))


def page_of(trace: Path) -> Path:
    page = trace.with_suffix(".html")
    done = attnprof("report", str(trace), "--html", str(page))
    assert done.code == 0, done.err
    return page


def canvas_of(browser: Any, page: Path) -> Any:
    browser.get(page.as_uri())
    canvas = browser.find_element("id", "gpu-canvas")
    wait(lambda: canvas.get_attribute("data-ready"))
    return canvas


def wait(condition: Any) -> None:
    """Until the page has done it; how long it takes is no matter here."""
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("the page did not come to it")


def view(canvas: Any) -> tuple[int, int]:
    """The view in ns, once it is drawn and the table made for it."""

    def settled() -> bool:
        read = canvas.get_attribute
        return bool(read("data-settled") == f"{read('data-from')}-{read('data-to')}")

    wait(settled)
    return int(canvas.get_attribute("data-from")), int(canvas.get_attribute("data-to"))


def table(browser: Any) -> dict[tuple[str, str], tuple[str, str]]:
    """(name, splits) to (count, µs)."""
    rows = "[...document.querySelectorAll('#gpu-table tbody tr')]"
    read = f"return {rows}.map((row) => [...row.cells].map((cell) => cell.innerText.trim()))"
    return {(one[0], one[1]): (one[3], one[4]) for one in browser.execute_script(read)}


def keys(browser: Any, canvas: Any, *pressed: str) -> tuple[int, int]:
    """The view after these keys."""
    for key in pressed:
        before = canvas.get_attribute("data-from"), canvas.get_attribute("data-to")
        canvas.send_keys(key)
        wait(lambda was=before: was != (canvas.get_attribute("data-from"), canvas.get_attribute("data-to")))
    return view(canvas)


def test_200000_kernels_zoom_by_wheel_down_to_one(
    browser: Any, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """How long it takes to open and at how many frames it zooms is measured and noted, not judged."""
    trace = tmp_path / "large.sqlite"
    write_sqlite(trace, 200_000)
    page = page_of(trace)
    assert page.stat().st_size < 4_000_000
    canvas = canvas_of(browser, page)
    rows = int(canvas.get_attribute("data-rows"))
    assert rows >= 200_000
    whole = view(canvas)
    turn = (
        "const c = arguments[0], box = c.getBoundingClientRect();"
        "for (let i = 0; i < arguments[1]; i += 1) c.dispatchEvent(new WheelEvent('wheel',"
        " {deltaY: arguments[2], clientX: box.left + box.width / 2, clientY: box.top + 40,"
        " cancelable: true}));"
    )
    browser.execute_script(turn, canvas, 40, -120)
    wait(lambda: int(canvas.get_attribute("data-rows")) < 1000)
    wait(lambda: view(canvas) != whole)
    first, last = view(canvas)
    assert last - first < (whole[1] - whole[0]) / 1000
    assert len(table(browser)) >= 1
    browser.execute_script(turn, canvas, 60, -120)
    wait(lambda: int(canvas.get_attribute("data-rows")) <= 2)
    browser.execute_script(turn, canvas, 120, 120)
    wait(lambda: int(canvas.get_attribute("data-rows")) == rows)
    wait(lambda: view(canvas) == whole)
    took = measure(browser, page, seconds=1)
    assert took["frames"] > 0
    assert took["opened_ms"] > 0
    for name, value in took.items():
        record_property(name, round(value, 1))
    assert console(browser) == []


def test_keys_fit_steps_and_jump_to_the_next_change(browser: Any, hybrid: Path) -> None:
    canvas = canvas_of(browser, hybrid)
    whole = view(canvas)
    step = keys(browser, canvas, "f")
    assert step[1] - step[0] < (whole[1] - whole[0]) / 6
    assert table(browser)["flash_fwd_splitkv_kernel", "8"][0] == "10"
    after = keys(browser, canvas, "]")
    assert after[0] > step[0]
    assert keys(browser, canvas, "[") == step
    changed = keys(browser, canvas, "n")
    said = browser.find_element("id", "gpu-readout").text
    assert said == "Change 1 of 1: decode step 3: 10 to 11 splits, layers 5, 11."
    assert table(browser)["flash_fwd_splitkv_kernel", "11"][0] == "2"
    assert ("flash_fwd_splitkv_kernel", "10") not in table(browser)
    assert changed < step
    closer = keys(browser, canvas, "+")
    assert closer[1] - closer[0] == pytest.approx((changed[1] - changed[0]) / 2, abs=2)
    assert keys(browser, canvas, "0") == whole
    assert console(browser) == []


def test_the_table_counts_what_is_in_view(browser: Any, hybrid: Path) -> None:
    canvas = canvas_of(browser, hybrid)
    view(canvas)
    assert table(browser)["flash_fwd_splitkv_kernel", "8"] == ("80", "800")
    assert table(browser)["flash_fwd_splitkv_kernel", "10"] == ("4", "48")
    assert table(browser)["flash_fwd_splitkv_kernel", "11"] == ("12", "156")
    assert table(browser)["rms_norm_kernel", ""] == ("96", "144")
    browser.find_element("css selector", "#gpu-controls [name=attention]").click()
    wait(lambda: all(name.startswith("flash") for name, _ in table(browser)))
    assert len(table(browser)) == 6


def test_a_search_goes_to_the_kernel_and_tells_it(browser: Any, hybrid: Path) -> None:
    from selenium.webdriver import Keys

    canvas = canvas_of(browser, hybrid)
    whole = view(canvas)
    field = browser.find_element("css selector", "#gpu-controls [name=search]")
    field.send_keys("rms_norm", Keys.ENTER)
    readout = browser.find_element("id", "gpu-readout")
    wait(lambda: "rms_norm_kernel" in readout.text)
    for part in (
        "1.50 µs",
        "step 1, layer 0",
        "grid 1x1x1, block 256x1x1",
        "launched 4 µs before it ran, in 2 µs",
    ):
        assert part in readout.text
    wait(lambda: view(canvas) != whole)
    assert {name for name, _ in table(browser)} == {"rms_norm_kernel"}


def test_a_call_of_the_table_shows_its_kernels(browser: Any, hybrid: Path) -> None:
    canvas = canvas_of(browser, hybrid)
    whole = view(canvas)
    browser.find_element("css selector", "#call-filter [name=step]").send_keys("5")
    browser.find_element("css selector", "#call-filter [name=layer]").send_keys("11")
    browser.find_element("css selector", "#call-table tbody button").click()
    browser.find_element("xpath", "//button[text()='see its kernels']").click()
    wait(lambda: view(canvas) != whole)
    said = browser.find_element("id", "gpu-readout").text
    for part in ("flash_fwd_splitkv_kernel", "11 splits", "step 5, layer 11"):
        assert part in said
    assert table(browser)["flash_fwd_splitkv_kernel", "11"][0] == "1"


def test_each_kind_of_layers_has_a_chart_that_tells_of_it_alone(browser: Any, hybrid: Path) -> None:
    from selenium.webdriver import Keys

    browser.get(hybrid.as_uri())
    figures = browser.find_elements("css selector", "#timeline .figure")
    assert [one.find_element("tag name", "h3").text for one in figures] == [
        "10 sliding layers",
        "2 full layers",
    ]
    for figure, said in zip(figures, ("8 splits, 10 layers", "11 splits, 2 layers"), strict=True):
        figure.find_element("css selector", "svg").send_keys(Keys.END)
        told = figure.find_element("css selector", ".readout").text
        assert told.startswith("Decode step 8\n")
        assert told.count("flash_fwd_splitkv_kernel") == 1
        assert said in told
    figure.find_element("css selector", "svg").send_keys(Keys.ENTER)
    assert len(browser.find_elements("css selector", "#call-table tr[data-order]")) == 12
    assert browser.find_element("id", "call-table").text.count("2 full layers") == 2
    assert console(browser) == []


def test_two_fingers_zoom(browser: Any, hybrid: Path) -> None:
    canvas = canvas_of(browser, hybrid)
    whole = view(canvas)
    pinch = (
        "const c = arguments[0], box = c.getBoundingClientRect(); c.setPointerCapture = () => {};"
        "const send = (type, id, x) => c.dispatchEvent(new PointerEvent(type, {pointerId: id,"
        " pointerType: 'touch', clientX: box.left + x, clientY: box.top + 60, bubbles: true}));"
        "send('pointerdown', 1, 400); send('pointerdown', 2, 500); send('pointermove', 2, 600);"
        "send('pointermove', 2, 800); send('pointerup', 1, 400); send('pointerup', 2, 800);"
    )
    browser.execute_script(pinch, canvas)
    wait(lambda: view(canvas) != whole)
    first, last = view(canvas)
    assert last - first == pytest.approx((whole[1] - whole[0]) / 4, rel=0.01)


def test_without_a_script_a_figure_and_the_tables_are_there(browser: Any, hybrid: Path) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(hybrid.as_uri())
        assert len(browser.find_elements("css selector", "#gpu noscript svg rect")) >= 1
        assert browser.find_element("id", "splits").text.count("flash_fwd_splitkv_kernel") == 3
        assert browser.find_elements("css selector", "#kernel-table tbody tr")
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
