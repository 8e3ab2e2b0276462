"""What this machine has for recording and predicting. Nothing here imports torch."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from attnprof.dispatch.libraries import all_libraries
from attnprof.dispatch.libraries import library as library_of
from attnprof.dispatch.library import AttentionLibrary
from attnprof.dispatch.versions import parse_version
from attnprof.doctor.finding import Finding, fail, ok, warn
from attnprof.doctor.trial import TrialCapture, TrialGeneration, TryCapture, TryGeneration
from attnprof.errors import UsageError
from attnprof.gpus import find_model
from attnprof.machine.extras import install_line
from attnprof.machine.find_nsys import find_importer, find_nsys, nsys_version
from attnprof.machine.library_versions import find_installed, versions
from attnprof.model import Library
from attnprof.runs import run_folders
from attnprof.version import __version__

_OLDEST_TRANSFORMERS = "4.48.0"
_FLASH_SM = (8, 0)
_SMI_TIMEOUT_S = 5
_FREE_GB = 1.0
_FREE_TMPDIR_MB = 256.0  # 400,000 ranges in half a second take 170 MB on their way
_UNMODELLED = "check shows what ran; --version X.Y.Z predicts with known rules"
_DOWNLOAD = "install Nsight Systems (developer.nvidia.com/nsight-systems)"


def examine_machine(
    nsys: str | None = None, *, try_capture: TryCapture, try_generation: TryGeneration | None = None
) -> Iterator[Finding]:
    """One finding after another, as they are made. ``nsys`` names the program that ``try_capture`` tries.

    ``try_generation`` shows whether steps are told apart under the installed transformers.
    """
    installed = versions()
    yield ok("attnprof", f"{__version__} on Python {platform.python_version()}, {platform.machine()}")
    yield from _nsys(nsys, try_capture)
    gpus = query_gpus()
    yield from _gpu(gpus)
    yield _transformers(installed["transformers"])
    broken = {found.what: found for found in _torch(installed["torch"], has_gpu=bool(gpus))}
    for name, each in all_libraries().items():
        yield from [broken[name]] if name in broken else _library(name, each)
    if try_generation is not None and installed["torch"] and installed["transformers"]:
        yield _steps(try_generation(), installed["transformers"])
    yield from _runs_folder()


def _nsys(named: str | None, try_capture: TryCapture) -> Iterator[Finding]:
    program = find_nsys(named)
    asked = named or os.environ.get("ATTNPROF_NSYS")
    if program is None:
        if asked:
            how = "--nsys" if named else "ATTNPROF_NSYS"
            yield fail(
                "nsys",
                f"{how} names {asked}, which is no program",
                f"give another path, or none: {_DOWNLOAD}",
            )
        else:
            yield warn(
                "nsys",
                "not found: attnprof run records with torch.profiler on a GPU, else call records only",
                f"{_DOWNLOAD}, or set ATTNPROF_NSYS to it",
            )
        return
    version = nsys_version(program)
    if version is None:
        yield fail("nsys", f"{program} does not run", f"run {program} --version to see why, or reinstall it")
        return
    yield ok("nsys", f"{version} at {program} ({_where(program, named)})")
    importer = find_importer(program)
    if importer is not None:
        yield ok("importer", f"QdstrmImporter at {importer.parent}")
    else:
        yield warn(
            "importer",
            "QdstrmImporter is not beside nsys: a capture that leaves only a .qdstrm cannot be read here",
            "install the host package of the same Nsight Systems version",
        )
    yield _temporary_files()
    yield _permissions()
    yield from _capture(try_capture(program), program, version)


def _temporary_files() -> Finding:
    """nsys keeps its events in TMPDIR first; where that is full it ends the program it records."""
    elsewhere = "TMPDIR=/path/with/space attnprof run …"
    try:
        folder = Path(tempfile.gettempdir())
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return fail("tmpdir", f"no folder for nsys's temporary files: {error.strerror or error}", elsewhere)
    free = shutil.disk_usage(folder).free / 1e6
    if free < _FREE_TMPDIR_MB:
        return warn(
            "tmpdir", f"{folder} has {free:,.0f} MB free: nsys crashes a program that fills it", elsewhere
        )
    return ok("tmpdir", f"{folder}: writable, {free / 1e3:,.0f} GB free")


def _permissions() -> Finding:
    """What recording needs and what it does not: no CPU is sampled, so that no permission is asked for."""
    try:
        level = Path("/proc/sys/kernel/perf_event_paranoid").read_text().strip()
    except OSError:
        level = "not there"
    return ok("perf", f"kernel.perf_event_paranoid is {level}: of no matter, for no CPU is sampled")


def _where(program: Path, named: str | None) -> str:
    if named:
        return "given by --nsys"
    if os.environ.get("ATTNPROF_NSYS"):
        return "from ATTNPROF_NSYS"
    return "on PATH" if shutil.which("nsys") == str(program) else "not on PATH, found where installers put it"


def _capture(test: TrialCapture, nsys: Path, version: str) -> Iterator[Finding]:
    short = version.partition("-")[0]
    if test.error:
        see = f"{nsys} profile --force-overwrite=true -o test sleep 1 shows why"
        if test.timed_out:
            see = "a slow machine needs longer: --timeout 60; else reinstall nsys"
        fix = test.fix or f"{see}; attnprof run --capture none needs no nsys"
        yield fail("capture", test.error, fix)
        return
    for note in test.notes:
        yield warn("capture", note, "a newer Nsight Systems records more")
    yield ok("capture", f"a test program was recorded and exported in {test.seconds:.1f} s")
    if test.ranges == 1:
        yield ok("ranges", f"an NVTX range arrived under nsys {short}")
    else:
        why = f"no NVTX range arrived under nsys {short}, so no kernel would get a step, layer or call"
        yield fail("ranges", why, f"attnprof run --capture torch needs no nsys; {_DOWNLOAD}")


def query_gpus() -> list[dict[str, str]]:
    """name, driver_version and compute_cap of each NVIDIA GPU, by nvidia-smi; empty without."""
    for fields in (("name", "driver_version", "compute_cap"), ("name", "driver_version")):
        command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_SMI_TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return []
        if done.returncode == 0:  # a driver from before 2021 knows no compute_cap
            rows = [line.split(", ") for line in done.stdout.splitlines() if line.strip()]
            return [dict(zip(fields, row, strict=False)) for row in rows]
    return []


def _gpu(gpus: list[dict[str, str]]) -> Iterator[Finding]:
    if not gpus:
        driver = Path("/proc/driver/nvidia/version").exists()
        why = "nvidia-smi lists none, though a driver is loaded" if driver else "no NVIDIA GPU here"
        yield warn(
            "gpu",
            f"{why}: attnprof run predicts the dispatch, it observes no kernel",
            "run where a GPU is to observe; --gpu NAME chooses what is predicted for (attnprof gpus)",
        )
        return
    for gpu in {tuple(gpu.items()): gpu for gpu in gpus}.values():
        name = gpu.get("name", "?")
        count = sum(other == gpu for other in gpus)
        model = find_model(name)
        sm = gpu.get("compute_cap", "")
        known = f"{model.num_sms} SMs" if model else "not in the table of GPUs"
        text = f"{f'{count} x ' if count > 1 else ''}{name}, {known}{f', sm {sm}' if sm else ''}"
        text += f", driver {gpu.get('driver_version', '?')}"
        capability = tuple(int(part) for part in sm.split(".")) if sm.replace(".", "").isdigit() else None
        if capability and capability < _FLASH_SM:
            yield warn(
                "gpu", f"{text}: flash kernels need sm 8.0", "expect the efficient or math backend of torch"
            )
        elif model is None:
            yield warn("gpu", text, "a trace states its SM count; for predictions give --sms N --sm X.Y")
        else:
            yield ok("gpu", text)


def modelled(library: Library, version: str) -> str:
    """Why ``version`` is not modelled; "" where it is."""
    try:
        library_of(library).check_version(version)
    except UsageError as error:
        return error.message
    return ""


def _library(name: str, library: AttentionLibrary) -> Iterator[Finding]:
    """Whether the installed version of an attention library is predicted."""
    found = find_installed(name)
    if found is None:
        if library.when_absent:
            yield ok(name, library.when_absent)
        return
    why, note = modelled(name, found.version), found.note.removeprefix(f"{name} ")
    if why:
        yield warn(name, note or f"{found.version}: {why}", _UNMODELLED)
    else:
        yield ok(name, note or f"{found.version}: {library.modelled}")


def _torch(version: str | None, *, has_gpu: bool) -> list[Finding]:
    """What keeps torch from running a workload, if anything."""
    if version is None:
        return [warn("torch", "not installed: attnprof run has no workload of its own", install_line())]
    if has_gpu and "+cpu" in version:
        why = f"{version} is built for the CPU alone and leaves the GPU unused"
        return [warn("torch", why, "install a CUDA build of torch")]
    return []


def _transformers(version: str | None) -> Finding:
    if version is None:
        return warn("transformers", "not installed: attnprof run has no generate()", install_line())
    if parse_version(version) < parse_version(_OLDEST_TRANSFORMERS):
        found = f"{version} repeats K and V instead of passing fewer heads: another dispatch than newer ones"
        return warn("transformers", found, "pip install -U transformers")
    return ok("transformers", version)


def _steps(tried: TrialGeneration, transformers: str) -> Finding:
    if tried.error:
        return fail(
            "steps",
            f"not told apart with transformers {transformers}: {tried.error}",
            "install a transformers that docs/compatibility.md lists as tested",
        )
    return ok("steps", f"{tried.found}, as they should")


def _runs_folder() -> Iterator[Finding]:
    root = run_folders.runs_root()
    existing = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.exists())
    shown = f"{root}" if root.exists() else f"{root} (made by the first run)"
    elsewhere = "set ATTNPROF_RUNS to a writable folder"
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        yield fail("runs", f"{shown} cannot be written: {error.strerror}", elsewhere)
        return
    free = shutil.disk_usage(existing).free / 1e9
    entries = run_folders.list_runs()
    left = sum(entry.status in ("incomplete", "discarded") for entry in entries)
    text = f"{shown}: {sum(entry.readable for entry in entries)} runs, writable, {free:,.0f} GB free"
    if free < _FREE_GB:
        yield warn("runs", f"{shown}: {free:.1f} GB free", f"make room, or {elsewhere}")
    elif left:
        noun = "folder of a killed run" if left == 1 else "folders of killed runs"
        yield warn("runs", f"{text}, {left} {noun}", "attnprof runs says what is there; --resume, --remove")
    else:
        yield ok("runs", text)
