"""What the README shows is what the commands print."""

from __future__ import annotations

import re

import pytest

from attnprof.machine.find_nsys import find_nsys
from tests.support.command import attnprof
from tests.support.readme import LONG, README, SHORT, Block, blocks, comparable, output_of


@pytest.fixture(scope="module")
def runs_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A runs folder with the README's two runs."""
    if find_nsys() is None:
        pytest.skip("the README's runs are recorded with nsys")
    folder = str(tmp_path_factory.mktemp("readme") / "attnprof-runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTNPROF_RUNS", folder)
        assert attnprof(*SHORT).code == attnprof(*LONG).code == 0
    return folder


@pytest.mark.nsys
@pytest.mark.parametrize("block", blocks(), ids=lambda block: block.command[:40])
def test_a_console_block_shows_what_the_command_prints(
    block: Block, runs_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTNPROF_RUNS", runs_folder)
    shown = comparable(block.output)
    assert comparable(output_of(block.command))[: len(shown)] == shown


def test_the_two_set_up_commands_are_where_ci_looks_for_them() -> None:
    text = README.read_text()
    for mark, command in (("main", "attnprof run --max-new-tokens 512"), ("tests", "pytest")):
        found = re.search(rf"<!-- {mark} -->\n```sh\n([^`]*)```", text)
        assert found
        assert command in found[1]


def test_every_command_is_in_the_readme() -> None:
    text = README.read_text()
    listed = re.findall(r"^  (\w+)  ", attnprof("--help").out.partition("Commands:")[2], re.MULTILINE)
    assert len(listed) >= 10
    assert [name for name in listed if f"attnprof {name}" not in text] == []
