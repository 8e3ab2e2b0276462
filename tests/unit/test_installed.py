"""Which flash_attn_3 is installed, told without importing it."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest

from attnprof.commands.trial_capture import try_capture
from attnprof.dispatch.library import InstalledLibrary
from attnprof.doctor.finding import Level
from attnprof.doctor.machine import examine_machine
from attnprof.machine.library_versions import (
    find_installed,
    installed_version,
    version_to_predict,
    versions,
)
from tests.support.flash_attn3 import install_flash_attn_3, install_package

V2_8_3, AUGUST_2025, BEFORE_3_0_0, V3_0_0 = "8c348fd7", "cd9383f3", "203b9b3d", "701ebe05"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the import path, before whatever is installed here."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.mark.parametrize(
    ("commit", "package", "called", "version", "note"),
    [
        (V2_8_3, "flash_attn_3", "3.0.0b1", "2.8.3",
         "flash_attn_3 3.0.0b1 has the interface of 2.8.0 to 2.8.3.post1: predicted as 2.8.3"),
        ("7a802796", "flash_attn", "3.0.0b1", "2.7.4",
         "flash_attn_3 3.0.0b1 has the interface of 2.7.3 to 2.7.4.post1: predicted as 2.7.4"),
        (BEFORE_3_0_0, "flash_attn_3", "3.0.0b1", "3.0.0",
         "flash_attn_3 3.0.0b1 has the interface of a commit between 2.8.3 and 3.0.0 that launches as 3.0.0: "
         "predicted as 3.0.0"),
        (V3_0_0, "flash_attn_3", "3.0.0", "3.0.0", ""),
        (V3_0_0, "flash_attn_3", "3.0.0+cu128torch2.9", "3.0.0", ""),
        ("284e2c6e", "flashattn_hopper", "3.0.0b1", "unknown",
         "flash_attn_3 3.0.0b1 is not modelled: it has the interface of a version before 2.7.3"),
        ("909eb7ce", "flash_attn_3", "3.0.0b1", "unknown",
         "flash_attn_3 3.0.0b1 is not modelled: "
         "it has the interface of a commit between 2.7.4.post1 and 2.8.0"),
        (AUGUST_2025, "flash_attn_3", "3.0.0b1", "unknown",
         "flash_attn_3 3.0.0b1 is not modelled: "
         "it has the interface of August 2025, in which it launched now as 2.8.3, now as 3.0.0"),
        (V3_0_0, "flash_attn_3", "3.1.0", "unknown",
         "flash_attn_3 3.1.0 is not modelled: nobody has read its rules yet"),
    ],
)  # fmt: skip
def test_a_build_is_told_by_its_interface_not_by_its_name(
    site: Path, commit: str, package: str, called: str, version: str, note: str
) -> None:
    install_flash_attn_3(site, commit, package, called)
    assert find_installed("flash_attn_3") == InstalledLibrary(version, called, note)
    assert "flash_attn_interface" not in sys.modules


def test_a_run_keeps_both_versions(site: Path) -> None:
    install_flash_attn_3(site, V2_8_3, "flash_attn_3", "3.0.0b1")
    found = versions()
    assert (found["flash_attn_3"], found["flash_attn_3_package"]) == ("2.8.3", "3.0.0b1")


def test_the_installed_build_is_predicted_where_its_rules_are_known(site: Path) -> None:
    install_flash_attn_3(site, V2_8_3, "flash_attn_3", "3.0.0b1")
    assert version_to_predict("flash_attn_3") == "2.8.3"
    install_flash_attn_3(site, AUGUST_2025, "flash_attn_3", "3.0.0b1")
    assert version_to_predict("flash_attn_3") == "3.0.0"


def test_an_old_flash_attn_3_is_not_taken_for_flash_attn_whose_name_it_bore(
    site: Path, tmp_path: Path
) -> None:
    install_flash_attn_3(site, "7a802796", "flash_attn", "3.0.0b1")
    install_package(site, "flash_attn", "2.7.4.post1")
    assert installed_version("flash_attn") == "2.7.4.post1"
    assert installed_version("flash_attn_3") == "2.7.4"


@pytest.mark.parametrize(
    "content", [b"", b"import flash_attn_3._C\x00", b"\xff\xfe", b"(" * 10_000, b"x = 1\n"]
)
def test_an_interface_that_is_none_is_of_no_known_version(site: Path, content: bytes) -> None:
    install_flash_attn_3(site, V3_0_0, "flash_attn_3", "3.0.0").write_bytes(content)
    found = find_installed("flash_attn_3")
    assert found == InstalledLibrary(
        "unknown", "3.0.0", "flash_attn_3 3.0.0 is not modelled: it has the interface of no known version"
    )


def test_a_package_without_interface_and_an_interface_without_package_are_found(site: Path) -> None:
    install_package(site, "flash_attn_3", "3.0.0")
    found = find_installed("flash_attn_3")
    assert found is not None
    assert found.note == "flash_attn_3 3.0.0 is not modelled: it has no flash_attn_interface.py"
    install_flash_attn_3(site, V3_0_0, "flash_attn_3", "3.0.0")
    for file in (site / "flash_attn_3-3.0.0.dist-info").iterdir():
        file.unlink()
    (site / "flash_attn_3-3.0.0.dist-info").rmdir()
    assert find_installed("flash_attn_3") == InstalledLibrary(
        "3.0.0", None, "flash_attn_3 has the interface of 3.0.0: predicted as 3.0.0"
    )


def test_what_a_build_left_out_is_said(site: Path) -> None:
    config = install_flash_attn_3(site, V3_0_0, "flash_attn_3", "3.0.0").with_name("flash_attn_config.py")
    flags = {"BACKWARD": True, "SPLIT": True, "HDIM96": True, "LOCAL": False}
    named = {f"FLASHATTENTION_DISABLE_{name}": value for name, value in flags.items()}
    config.write_text(f"CONFIG = {{'build_flags': {named!r}}}\ndef show():\n    pass\n")
    found = find_installed("flash_attn_3")
    assert found is not None
    assert found.note == (
        "flash_attn_3 3.0.0 was built without SPLIT, HDIM96: predicted as a full build of 3.0.0"
    )
    config.write_text("CONFIG = build()")
    assert find_installed("flash_attn_3") == InstalledLibrary("3.0.0", "3.0.0", "")


def test_a_build_of_july_2026_or_later_may_combine_on_another_grid(site: Path) -> None:
    install_flash_attn_3(site, "0f82fead", "flash_attn_3", "3.0.0")
    (site / "flash_attn_3").mkdir()
    (site / "flash_attn_3" / "__init__.py").touch()
    found = find_installed("flash_attn_3")
    assert found is not None
    assert (found.version, "may combine packed queries on another grid" in found.note) == ("3.0.0", True)


@pytest.mark.parametrize(
    ("commit", "level", "says"),
    [
        (V2_8_3, Level.OK, "has the interface of 2.8.0 to 2.8.3.post1: predicted as 2.8.3"),
        (V3_0_0, Level.OK, "3.0.0: its launches are modelled"),
        (AUGUST_2025, Level.WARN, "is not modelled: it has the interface of August 2025"),
    ],
)
def test_doctor_says_which_flash_attn_3_there_is(
    site: Path, monkeypatch: pytest.MonkeyPatch, commit: str, level: Level, says: str
) -> None:
    install_flash_attn_3(site, commit, "flash_attn_3", "3.0.0" if commit == V3_0_0 else "3.0.0b1")
    monkeypatch.setenv("ATTNPROF_NSYS", "/nowhere/nsys")
    found = next(
        finding
        for finding in examine_machine(try_capture=partial(try_capture, limit_s=20))
        if finding.what == "flash_attn_3"
    )
    assert found.level is level
    assert says in found.found
