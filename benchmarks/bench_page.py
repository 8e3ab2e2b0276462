#!/usr/bin/env python3
"""How long a report's page takes to open in headless Chromium, and how many frames a second it zooms at.

    python benchmarks/bench_page.py                            # 200,000 and 2,000,000 kernels
    python benchmarks/bench_page.py --kernels 20000 200000

The traces are those of ``synthetic.py``. *Opened*: from the navigation until the timeline is drawn. *Frames*:
the wheel is turned once a frame, from the whole trace down to single kernels and back, for five seconds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.synthetic import write_sqlite  # noqa: E402
from tests.support.chromium import chromium  # noqa: E402

_TURN = """
const most = arguments[0] * 1000, done = arguments[1], canvas = document.getElementById("gpu-canvas");
const box = canvas.getBoundingClientRect(), times = [], drawn = [];
let turns = 0, by = -120;
const turn = (now) => {
  times.push(now);
  drawn.push(Number(canvas.dataset.took));
  if (now - times[0] > most) return done([times, drawn, canvas.dataset.rows]);
  if (++turns % 60 === 0) by = -by;
  canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: by, clientX: box.left + box.width * 0.6,
    clientY: box.top + 60, cancelable: true, bubbles: true }));
  requestAnimationFrame(turn);
};
requestAnimationFrame(turn);
"""


def measure(browser: Any, page: Path, seconds: float = 5) -> dict[str, float]:
    """What one page takes: ms to open, frames a second and the longest drawing in ms while zooming."""
    browser.get(page.as_uri())
    for _ in range(600):
        ready = browser.execute_script("return document.getElementById('gpu-canvas').dataset.ready")
        if ready:
            break
        time.sleep(0.05)
    else:
        raise SystemExit(f"{page} has not opened in 30 seconds")
    times, drawn, _ = browser.execute_async_script(_TURN, seconds)
    frames = (len(times) - 1) / ((times[-1] - times[0]) / 1e3)
    gaps = sorted(after - before for before, after in pairwise(times))
    return {
        "opened_ms": float(ready),
        "frames": frames,
        "slowest_ms": gaps[-1],
        "p95_ms": gaps[int(len(gaps) * 0.95)],
        "drawing_ms": max(drawn),
    }


def main() -> None:
    """Measures each size and prints a row of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kernels", nargs="+", type=int, default=[200_000, 2_000_000])
    sizes = parser.parse_args().kernels
    print("| kernels | page | opened | frames a second | 95 % of frames within | longest drawing |")
    print("|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            trace, page = Path(folder) / f"{size}.sqlite", Path(folder) / f"{size}.html"
            write_sqlite(trace, size)
            command = [sys.executable, "-m", "attnprof", "report", str(trace), "--html", str(page)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            with chromium(Path(folder) / f"profile-{size}") as browser:
                found = measure(browser, page)
            print(
                f"| {size:,} | {page.stat().st_size / 1e6:.1f} MB | {found['opened_ms']:,.0f} ms "
                f"| {found['frames']:.0f} | {found['p95_ms']:.0f} ms | {found['drawing_ms']:.0f} ms |",
                flush=True,
            )


if __name__ == "__main__":
    main()
