"""vLLM's extension, packed out of a wheel and unpacked again: the same bytes, and none where none is."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from benchmarks.pack_vllm_fa3 import INTERFACE, MEMBER, PACKAGE, PACKED, check, main, unpack

CONTENT = b"\x7fELF no real extension" * 1000


def wheel_with(folder: Path, member: str) -> Path:
    path = folder / "made_up.whl"
    with zipfile.ZipFile(path, "w") as files:
        files.writestr(member, CONTENT)
        files.writestr(f"vllm/{PACKAGE}/{INTERFACE}", "FA3_AVAILABLE = False\n")
    return path


def test_it_comes_out_as_it_went_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packages, into = tmp_path / "packages", tmp_path / "into"
    into.mkdir()
    assert unpack(packages, into) is None
    assert main([str(wheel_with(tmp_path, MEMBER)), "--out", str(packages)]) == 0
    assert PACKED in capsys.readouterr().out
    package = unpack(packages, into)
    assert package == into / PACKAGE
    assert (package / "_vllm_fa3_C.abi3.so").read_bytes() == CONTENT
    assert (package / INTERFACE).read_text() == "FA3_AVAILABLE = False\n"
    assert (packages / PACKAGE / PACKED).stat().st_size < len(CONTENT) / 10


def test_a_wheel_without_it_and_a_file_that_does_not_load_are_said(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        main([str(wheel_with(tmp_path, "vllm/__init__.py")), "--out", str(tmp_path)])
    main([str(wheel_with(tmp_path, MEMBER)), "--out", str(tmp_path)])
    assert check(tmp_path) != 0
