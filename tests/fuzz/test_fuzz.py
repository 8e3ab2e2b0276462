"""A seeded part of python -m tests.fuzz, and what makes it worth running: that inputs can be made again."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.dice import Dice
from tests.fuzz.harness import Ending, Outcome, make_input
from tests.fuzz.subjects import subjects
from tests.fuzz.uses import WrongError, check_page

ROOT = Path(__file__).resolve().parents[2]


def test_a_thousand_damaged_inputs_end_in_a_result_or_in_one_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--count", "1000", "--seed", "1", "--jobs", "1"]
    command += ["--keep", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)
    assert (done.returncode, done.stderr) == (0, "")
    counts = {what: int(count) for count, what in re.findall(r"(\d+) (\w+)", done.stdout.partition(";")[0])}
    assert counts.pop("inputs") == sum(counts.values()) == 1000
    for ending in ("result", "TraceError", "RunError", "UsageError", "ConfigError"):
        assert counts[ending] > 20
    assert " 0 broken" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_an_input_is_made_again_from_its_number_and_its_seed() -> None:
    everything = subjects()
    for number in range(0, 120, 7):
        (dice, made), (again, twin) = (make_input(number, 5, everything) for _ in range(2))
        assert (dice.recipe, made.files) == (again.recipe, twin.files)


def test_what_is_decided_is_the_same_on_every_machine_and_python() -> None:
    dice = Dice("5:17")
    drawn = [dice.below(1000), dice.early(1000), dice.chance(0.5), dice.pick("abcdefgh"), dice.below(2**31)]
    assert drawn == [968, 136, False, "g", 1053376135]


def test_an_outcome_says_what_broke_what_was_slow_and_what_was_large() -> None:
    outcome = Outcome()
    outcome.add(Ending(1, "t.sqlite", (), "result", "report 0", "", 0.5, 1_000_000, 2_000_000))
    outcome.add(Ending(2, "t.json", ("truncate",), "", None, "did not end", 3.25, 0, 10))
    assert outcome.line() == (
        "2 inputs: 1 result; 1 used further; 1 broken; slowest 3.2 s (input 2);"
        " peak memory 1 MB for 2.0 MB (input 1)"
    )


@pytest.mark.parametrize(
    "broken",
    [
        "<img src=x>",
        "<b onclick='x'>",
        '<a href="http://x">',
        "<!-- comment -->",
        "<script>alert(1)</script>",
        '</script><script type="application/json">{}',
    ],
)
def test_a_page_with_anything_but_its_own_elements_is_noticed(broken: str) -> None:
    page = '<!doctype html><html><script type="application/json">{}</script><script>1</script>PLACE</html>'
    check_page(page.replace("PLACE", "&lt;img&gt;"))
    with pytest.raises(WrongError):
        check_page(page.replace("PLACE", broken))


def test_subjects_are_made_alike_in_every_process() -> None:
    say = "from tests.fuzz.test_fuzz import digest; print(digest())"
    told = {
        subprocess.run(
            [sys.executable, "-c", say],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed, "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert told == {f"{digest()}\n"}


def digest() -> str:
    """Of all that is damaged."""
    made = hashlib.sha256()
    for subject in subjects():
        for name, content in sorted(subject.files.items()):
            made.update(f"{subject.name} {name} {len(content)}".encode() + content)
    return made.hexdigest()
