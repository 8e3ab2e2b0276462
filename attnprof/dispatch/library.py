"""What a folder of ``dispatch/`` says of the attention library it is about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, Protocol

from attnprof.model import AttentionCall, Entry, Gpu, KernelLaunch, Prediction, Reason

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from attnprof.dispatch.explanation import GpuFacts, Observed, ReadBack
    from attnprof.dispatch.heuristic import SplitChoice
    from attnprof.dispatch.intervals import InferredCall, Interval
    from attnprof.dispatch.replay import ReplaySource

NO_PREDICTION = 0
FP8 = "float8_e4m3fn"  # as torch spells it
FLASH_ATTN_FUNCTIONS: Mapping[Entry, str] = {
    "fwd": "flash_attn_func",
    "varlen_fwd": "flash_attn_varlen_func",
    "fwd_kvcache": "flash_attn_with_kvcache",
}


@dataclass(frozen=True, slots=True)
class SplitCounts:
    """Per call: ``num_splits``, and the thread blocks (of 64 queries, before splitting) that it follows from.

    ``num_splits`` is NO_PREDICTION where the call is refused or launches nothing. ``slots`` are the thread
    blocks that the library counts as resident at once. ``kind``: calls that differ in sizes other than the
    head dim launch the same kernels where it is equal, and both or neither are split.
    """

    num_splits: npt.NDArray[np.int32]
    thread_blocks: npt.NDArray[np.int64]
    slots: int
    kind: npt.NDArray[np.int8]


# The fields of a KernelLaunch, and num_splits with those of each launch, for who makes no objects of them.
LaunchFields = tuple[str, tuple[int, int, int], tuple[int, int, int], int]
Launched = tuple[int, tuple[LaunchFields, ...]]
# (batch, seqlen_q, seqlen_k) -> the prediction
AnswerTo = Callable[[int, int, int], Prediction | Launched]
# (call, GPU, integer arrays that replace some of the call's fields, most splits) -> num_splits of each
Launches = tuple[KernelLaunch, ...]
SplitCounter = Callable[[AttentionCall, Gpu, Mapping[str, Any], Any], SplitCounts]


@dataclass(frozen=True, slots=True)
class KeyEdges:
    """Where a longer KV may change what is predicted: each ``block`` keys, and at each of ``lengths``."""

    block: int
    lengths: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Backend:
    """The backend ``name`` of ``function`` takes a call.

    ``ruled_out`` has a Reason per other one: ``rule`` its name, ``value`` the condition that fails.
    """

    name: str
    function: str
    ruled_out: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What lies here under the names that a library goes by.

    ``packages``: the versions of each of its distributions.  ``module``: the text of its module.
    ``files``: that of each file beside the module.  A text is None where there is no file, "" where it cannot
    be read.
    """

    packages: Mapping[str, tuple[str, ...]]
    module: str | None = None
    files: Mapping[str, str | None] | None = None


@dataclass(frozen=True, slots=True)
class InstalledLibrary:
    """An installed library.

    ``version`` is the one whose rules hold, ``package`` what the package calls itself, None without one.
    ``note`` says in one sentence what is not as the package's version tells, "" where nothing is.
    """

    version: str
    package: str | None
    note: str = ""


class AttentionLibrary(Protocol):
    """A library whose launches are predicted. What has a body here is what most libraries do: inherit it.

    Nothing here is imported to read a kernel's name or to list the libraries: a method imports its rules.
    """

    entries: tuple[Entry, ...] = ("fwd", "varlen_fwd", "fwd_kvcache")
    dtypes: tuple[str, ...] = ("bf16", "fp16", "fp32")  # of recorded calls that are predicted
    functions: Mapping[Entry, str] = {}  # what people call it by, for sentences
    packages: tuple[str, ...] = ()  # its distributions on PyPI, the present name first
    module: str = ""  # a top-level module whose text tells the version better than its package
    files: tuple[str, ...] = ()  # files beside that module which tell more
    modelled: str = "its launches are modelled"
    vendor: Literal["nvidia", "amd", "any"] = "nvidia"  # whose GPUs its rules are of
    from_maxima: bool = False  # a paged batch is predicted though of its lengths only the maxima are known
    packs_pages: bool = True  # its varlen_fwd, where it has one, takes a paged batch
    caps_splits: bool = False  # an engine that captures a graph gives num_splits as room for so many
    when_absent: str = ""  # what to say where it is not installed, if anything
    kernels: tuple[str, ...] = ()  # whose kernels it launches, as names are read; () where any may be its

    @property
    def default_version(self) -> str:
        """The version predicted for where none is given or installed."""
        ...

    def check_version(self, version: str) -> None:
        """Raises UsageError for a version whose rules are not known."""
        ...

    def known_versions(self) -> tuple[str, ...]:
        """The first version of each set of its rules, ascending; empty where one alone is known."""
        return ()

    def asked_by_others(self, call: AttentionCall) -> tuple[tuple[str, AttentionCall], ...]:
        """The call as other versions of the engine that made it would make it, by the engine's version."""
        return ()

    def predict(self, call: AttentionCall, gpu: Gpu, version: str, *, explain: bool = False) -> Prediction:
        """What it launches for ``call`` on ``gpu``; with ``explain``, every step that leads there.

        Raises UsageError for a version whose rules are not known.
        """
        ...

    def backend(self, call: AttentionCall, gpu: Gpu, version: str) -> Backend | None:
        """Which of its backends takes the call; None where it has one, or how it chooses is not known."""
        return None

    def backend_of_record(self, record: Mapping[str, Any], gpu: Gpu, version: str) -> Backend | None:
        """The same of a recorded call, whose record may state more than an AttentionCall has."""
        return None

    def backend_of_kernel(self, kernels: str) -> str:
        """Which of its backends launches kernels of library ``kernels``; "" where none of them does."""
        return ""

    def installed(self, evidence: Evidence) -> InstalledLibrary | None:
        """Which version lies here; None where there is none."""
        found = [version for package in self.packages for version in evidence.packages.get(package, ())]
        return InstalledLibrary(found[0], found[0]) if found else None

    def not_modelled(self, record: Mapping[str, Any]) -> str:
        """Why a recorded call is not predicted though its dtype and entry are; "" where it is."""
        return ""

    def entry_of(self, record: Mapping[str, Any]) -> Entry:
        """The entry that a recorded paged batch took."""
        entry: Entry = record["entry"]
        return entry

    def arguments(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """Fields of the AttentionCall that this library alone takes, or spells otherwise in a record."""
        return {}

    def weigh(self, thread_blocks: int, slots: int, key_blocks: int) -> SplitChoice | None:
        """The split counts its heuristic weighs for these; None where that cannot be laid open."""
        return None

    def key_block(self, call: AttentionCall) -> int | None:
        """Keys per block: num_splits can change only where one begins. None where that is not known."""
        return None

    def cache_block(self, call: AttentionCall) -> int | None:
        """Keys per block in which the splits share out a cache's capacity; None where they do not."""
        return None

    def split_counter(self, version: str) -> SplitCounter | None:
        """num_splits over arrays of calls; None where it is predicted call by call."""
        return None

    def alike(self, call: AttentionCall, gpu: Gpu, version: str) -> AnswerTo | None:
        """``predict`` for calls that differ from ``call`` in batch and lengths alone; None if it has no such.

        Raises UsageError for a version whose rules are not known.
        """
        return None

    def key_edges(self, call: AttentionCall) -> KeyEdges | None:
        """Where its ``split_counter`` may tell two KV lengths of a call apart; None where not known."""
        return None

    def versions_spelling(self, kernel: str) -> tuple[str, ...]:
        """The versions whose main kernels are spelled so, ascending; empty where the name does not tell."""
        return ()

    def template_fields(self, kernel: str) -> tuple[tuple[str, object], ...] | None:
        """The template arguments of one of its kernels by name; None where the name cannot be read."""
        return None

    def read_back(self, kernel: str, grid: tuple[int, int, int], num_sms: int) -> InferredCall | None:
        """What the launch of a main kernel says of its call; None where it is not its kernel, or is cut."""
        return None

    def splits_at(self, kernel: str, call: InferredCall, num_sms: int, seqlen_k: Interval) -> set[int]:
        """The split counts it gives a call read back from ``kernel``, for KV lengths of an interval.

        Empty where it is not its kernel, or that is not known.
        """
        return set()

    def named_only(self, kernel: str) -> str:
        """Why the launches of one of its kernels are not predicted; "" of others'."""
        return ""

    def window_may_tell(self, one: Launches, other: Launches) -> bool:
        """Whether two of its calls in one step may differ by a window, which their names do not tell.

        Each is its main kernel, and what adds up after it.  False where a window changes no launch, and of
        other libraries' kernels.
        """
        return False

    def replay(self, call: AttentionCall) -> ReplaySource | None:
        """The call as Python that makes it; None where that is not known."""
        return None

    def explain(self, seen: Observed, gpu: GpuFacts) -> ReadBack | None:
        """Every kind of call for which it launches exactly ``seen``; None of other libraries' kernels.

        A kernel that several libraries have is asked of each.
        """
        return None


@cache
def _module(name: str) -> Any:
    return import_module(name)


class LibraryOfVersions(AttentionLibrary):
    """A library whose folder has a ``versions.py`` with DEFAULT_VERSION, rules_for, predict, maybe KNOWN."""

    folder: str  # as a module

    def _versions(self) -> Any:
        return _module(f"{self.folder}.versions")

    @property
    def default_version(self) -> str:
        version: str = self._versions().DEFAULT_VERSION
        return version

    def check_version(self, version: str) -> None:
        self._versions().rules_for(version)

    def known_versions(self) -> tuple[str, ...]:
        return tuple(getattr(self._versions(), "KNOWN", ()))

    def predict(self, call: AttentionCall, gpu: Gpu, version: str, *, explain: bool = False) -> Prediction:
        prediction: Prediction = self._versions().predict(call, gpu, version, explain=explain)
        return prediction
