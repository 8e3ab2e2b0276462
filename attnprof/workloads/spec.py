"""What to run, as the parent checks it and the child receives it. No torch here."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from attnprof.errors import UsageError
from attnprof.workloads.presets import DEFAULT_MODEL, PRESETS, find_preset, unknown_model

RangeKind = Literal["nvtx", "torch", "none"]
DEFAULT_PROMPT_TOKENS = 25
CHILD_MODULE = "attnprof.workloads.child"
_BY_PATH = Path(__file__).with_name("child_by_path.py")
KINDS = ("generate", "kvcache", "varlen")
_PAGE_MULTIPLE = 256  # flash_attn's mha_fwd_kvcache refuses any other page


@dataclass(frozen=True)
class GenerateOptions:
    """Hugging Face generate(): ``model`` is a preset, a folder or a hub id.

    ``prompt_tokens`` random ids, or the tokens of ``prompt``; each sequence of the batch gets its own random
    ids, or the same prompt. ``attn`` "auto" is flash_attention_2 where a GPU and flash_attn are, else sdpa.
    ``left_padding`` gives the sequences unequal prompts, ``spread_lengths`` of them, padded on the left.
    """

    model: str = DEFAULT_MODEL
    max_new_tokens: int = 128
    prompt: str | None = None
    prompt_tokens: int | None = None
    batch: int = 1
    attn: str = "auto"
    layers: int | None = None
    device: str = "auto"
    seed: int = 0
    trust_remote_code: bool = False
    left_padding: bool = False
    static_cache: bool = False

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "prompt_tokens", "batch", "layers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
        if self.prompt is not None and self.prompt_tokens is not None:
            raise UsageError("--prompt and --prompt-tokens exclude each other", hint="give one of them")
        if self.prompt is not None and not self.prompt:
            raise UsageError("--prompt is empty", hint="give a text, or --prompt-tokens N for random tokens")
        if self.left_padding and (self.batch < 2 or self.prompt is not None):
            raise UsageError(
                "--left-padding needs prompts of unequal lengths",
                hint="--batch 4 --prompt-tokens 100 gives prompts of 25, 50, 75 and 100 tokens",
            )
        _check_device(self.device)
        known = find_preset(self.model) or Path(self.model).is_dir() or self.model.count("/") == 1
        if not known:
            raise unknown_model(self.model)


@dataclass(frozen=True)
class AttentionOptions:
    """Attention calls alone, on random tensors with the heads of a preset ``model``.

    "kvcache": ``layers`` caches of ``batch`` sequences that hold ``spread_lengths(prompt_tokens, batch)`` at
    first; each of ``max_new_tokens`` steps appends one token per sequence. ``page_size`` in tokens, None for
    one block per sequence; ``num_splits`` 0 is the library's own choice.
    "varlen": ``batch`` packed sequences of such lengths, once per layer.
    """

    kind: Literal["kvcache", "varlen"]
    model: str = DEFAULT_MODEL
    max_new_tokens: int = 16
    prompt_tokens: int = 512
    batch: int = 4
    layers: int = 1
    page_size: int | None = None
    num_splits: int = 0
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "prompt_tokens", "batch", "layers"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}")
        if self.page_size is not None and (self.page_size < 1 or self.page_size % _PAGE_MULTIPLE):
            raise UsageError(f"--page-size must be a multiple of {_PAGE_MULTIPLE}, not {self.page_size}")
        if not 0 <= self.num_splits <= 128:
            raise UsageError(f"--num-splits must be 0 (the library's choice) to 128, not {self.num_splits}")
        _check_device(self.device)
        if find_preset(self.model) is None:
            raise UsageError(
                f"--workload {self.kind} takes its heads from a preset, and {self.model} is none",
                hint=f"presets: {', '.join(PRESETS)}",
            )


def spread_lengths(longest: int, count: int) -> list[int]:
    """``count`` lengths in tokens, evenly spread up to ``longest``."""
    return [-(-longest * (index + 1) // count) for index in range(count)]


def _check_device(name: str) -> None:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise UsageError(f"--device {name} is none of auto, cpu, cuda, cuda:N")


@dataclass(frozen=True)
class Program:
    """A program of the user's: a Python script, module or command line run in-process, or any other program.

    ``mode`` "other" is started as it is; each Python among it and its children records itself. ``kind`` is
    an engine's name where attnprof's own workload for it runs, ``asked`` what workload.json says of that.
    """

    mode: Literal["script", "module", "command", "other"]
    target: str
    arguments: tuple[str, ...] = ()
    interpreter_flags: tuple[str, ...] = ()
    kind: str = "program"
    asked: dict[str, int] = field(default_factory=dict)


_FLAG_WITH_VALUE = ("-W", "-X", "--check-hash-based-pycs")


def parse_program(argv: list[str]) -> tuple[Program, tuple[str, ...]]:
    """The program behind ``argv`` and notes on how it will run.

    ``python [FLAGS] script.py ARGS``, ``python -m MODULE ARGS``, ``python -c TEXT``, the same without
    ``python``, or anything else on PATH. Raises UsageError for what cannot be started.
    """
    if not argv:
        raise UsageError("no program after --", hint="attnprof run -- python script.py ARGS")
    head, rest = argv[0], list(argv[1:])
    if re.fullmatch(r"python(\d+(\.\d+)?)?", os.path.basename(head)):  # noqa: PTH119
        found = shutil.which(head)
        if found is None:
            raise UsageError(
                f"{head} is not on PATH", hint="give the script itself: attnprof run -- script.py"
            )
        parsed = _python(list(rest))
        if _is_ours(found):
            return parsed, ()
        return Program("other", head, tuple(rest)), _kept_out(head, parsed.interpreter_flags)
    if head == "-m" or head.endswith(".py"):
        return _python(list(argv)), ()
    if shutil.which(head) is None:
        raise UsageError(f"cannot run {head}: no such program", hint="check the path after --")
    return Program("other", head, tuple(rest)), ()


def _python(arguments: list[str]) -> Program:
    flags: list[str] = []
    while arguments and arguments[0].startswith("-") and arguments[0] not in ("-m", "-c", "-"):
        flags.append(arguments.pop(0))
        if flags[-1] in _FLAG_WITH_VALUE and arguments:
            flags.append(arguments.pop(0))
    if not arguments or arguments[0] == "-" or (arguments[0] in ("-m", "-c") and len(arguments) < 2):
        raise UsageError("python needs a script or -m MODULE", hint="attnprof run -- python script.py ARGS")
    if arguments[0] in ("-m", "-c"):
        mode: Literal["module", "command"] = "module" if arguments[0] == "-m" else "command"
        return Program(mode, arguments[1], tuple(arguments[2:]), tuple(flags))
    if not Path(arguments[0]).exists():
        raise UsageError(f"no such file: {arguments[0]}", hint="check the path after --")
    return Program("script", arguments[0], tuple(arguments[1:]), tuple(flags))


def _is_ours(found: str) -> bool:
    # Two virtual environments share the binary their links lead to: compare where the links are.
    return os.path.dirname(os.path.abspath(found)) == os.path.dirname(os.path.abspath(sys.executable))  # noqa: PTH100, PTH120


def keeping_out(flags: Iterable[str]) -> str:
    """The flag with which a Python reads neither PYTHONPATH nor sitecustomize; "" where there is none."""
    letters = ((flag, flag[1:]) for flag in flags if flag.startswith("-"))
    return next((flag for flag, given in letters if given.isalpha() and set(given) & set("EIS")), "")


def _kept_out(head: str, flags: tuple[str, ...]) -> tuple[str, ...]:
    flag = keeping_out(flags)
    return (f"{head} {flag} keeps attnprof out: its attention calls could not be recorded",) if flag else ()


@dataclass(frozen=True)
class ChildSpec:
    """Everything the child needs: what to run, into which folder, and which ranges the recorder sees.

    ``modules``: those of a model's modules too. ``shapes``: torch.profiler records those of operators.
    """

    folder: str
    ranges: RangeKind
    generate: GenerateOptions | None = None
    attention: AttentionOptions | None = None
    program: Program | None = None
    notes: tuple[str, ...] = ()
    modules: bool = False
    shapes: bool = False

    @property
    def kind(self) -> str:
        """What workload.json calls it."""
        if self.attention is not None:
            return self.attention.kind
        if self.program is not None:
            return self.program.kind
        return "generate" if self.generate is not None else "program"

    def command(self) -> list[str]:
        """The child's command line; it needs nothing else, so that it can be copied and run."""
        flags = self.program.interpreter_flags if self.program else ()
        # Without the site module, or PYTHONPATH, attnprof is found by its path alone.
        start = [str(_BY_PATH)] if keeping_out(flags) else ["-m", CHILD_MODULE]
        return [sys.executable, *flags, *start, self.to_json()]

    def to_json(self) -> str:
        """Only what differs from the defaults."""
        given: dict[str, Any] = {"folder": self.folder, "ranges": self.ranges}
        for part in ("generate", "attention", "program"):
            if (value := getattr(self, part)) is not None:
                given[part] = _changed(value)
        if self.notes:
            given["notes"] = self.notes
        if self.modules:
            given["modules"] = True
        if self.shapes:
            given["shapes"] = True
        return json.dumps(given)

    @staticmethod
    def from_json(text: str) -> ChildSpec:
        given: dict[str, Any] = json.loads(text)
        generate, program = given.pop("generate", None), given.pop("program", None)
        attention = given.pop("attention", None)
        if program is not None:
            program = {name: tuple(v) if isinstance(v, list) else v for name, v in program.items()}
        return ChildSpec(
            given["folder"],
            given["ranges"],
            generate=GenerateOptions(**generate) if generate is not None else None,
            attention=AttentionOptions(**attention) if attention is not None else None,
            program=Program(**program) if program is not None else None,
            notes=tuple(given.get("notes", ())),
            modules=given.get("modules", False),
            shapes=given.get("shapes", False),
        )


def _changed(options: GenerateOptions | AttentionOptions | Program) -> dict[str, Any]:
    defaults = {
        one.name: one.default if one.default_factory is MISSING else one.default_factory()
        for one in fields(options)
    }
    return {name: value for name, value in asdict(options).items() if value != defaults[name]}
