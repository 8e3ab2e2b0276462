"""Records attention calls as they enter a library, and marks each with a range that a profiler sees."""

from __future__ import annotations

import functools
import itertools
import json
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from attnprof.instrument.here import OUTSIDE, Context
from attnprof.instrument.journal import Describe, Journal
from attnprof.instrument.ranges import NoRanges, Ranges
from attnprof.instrument.slots import MOST_KINDS, Slots, of_layer
from attnprof.instrument.undescribed import count, undescribed
from attnprof.model import STEP_PHASES

_UNREAD = "on a device, and not read"
_ROLES = ("decoder", "encoder", "draft")  # the language model is the first of the first that there is


class Recorder:
    """Numbers attention calls, model forwards and layers, and keeps what each call was given.

    What calls are given alike is kept once, as a kind. Recording a call of a known kind writes one number and
    pushes one range: no device synchronisation, no formatting. ``write`` makes calls.jsonl of both later;
    ``journal`` has them for a process that ends before that.
    """

    def __init__(
        self,
        ranges: Ranges | None = None,
        journal: Journal | None = None,
        journal_of_fork: Callable[[], Journal] | None = None,
    ) -> None:
        self.ranges = ranges or NoRanges()
        self.journal = journal
        self._journal_of_fork = journal_of_fork  # may raise OSError
        self.steps: list[dict[str, Any]] = []
        self.notes: dict[str, None] = {}  # a set that keeps its order
        self.models: list[dict[str, Any]] = []  # those that made steps, in order
        self.generations: list[dict[str, Any]] = []  # what each generate() came to
        self.model: dict[str, Any] | None = None  # the language model
        self.attn_implementation: str | None = None
        self._named = False
        self.paused = False
        self.requests: Mapping[str, Any] = {}  # of the engine's step that is open, by the engine's names
        self._slots = Slots(journal)
        self._ahead: dict[int, str] = {}  # phases of steps that began ahead of their forward
        self._kinds: list[tuple[Describe, tuple[Any, ...]]] = []
        self.forgetting: list[Callable[[], None]] = []  # what kinds are known by number, for the next fork
        self._raised: dict[int, dict[str, str]] = {}
        self._seq = itertools.count()
        self._lock = threading.RLock()
        self.context = Context()
        attn, layer = self.ranges.channel("attn"), self.ranges.channel("layer")
        self._push_attn, self.end_call = attn.push, attn.pop
        self.push_layer, self.pop_layer = layer.push, layer.pop
        self._phases = {phase: self.ranges.channel(phase) for phase in STEP_PHASES}
        self.forked = False
        self._journal_before_fork: Journal | None = None
        os.register_at_fork(after_in_child=functools.partial(_note_fork_of, weakref.ref(self)))

    @property
    def in_step(self) -> bool:
        return self.context.here.step is not None

    @property
    def num_calls(self) -> int:
        return len(self._slots)

    def turned_away(self) -> bool:
        """Whether a call made now is none of this recorder's; where it is paused, or in a forked process."""
        if self.forked:
            self._begin_in_fork()
        if self.paused:
            self.skip_call()
        return self.paused

    def kind(
        self, describe: Describe, arguments: tuple[Any, ...], plain: tuple[Any, ...] | None = None
    ) -> int:
        """The number of a kind of call, from 1; ``describe(arguments)`` gives its fields when written.

        ``plain`` is the same where the arguments hold tensors, without them.
        """
        if self.forked:
            self._begin_in_fork()
        kind = describe, arguments
        with self._lock:
            kinds = self._kinds
            if len(kinds) >= MOST_KINDS - 1:
                kind = undescribed, ("", "", "", f"more kinds of calls than {MOST_KINDS - 2:,}")
                describe, arguments, plain = *kind, None
            if plain is None and kinds and kinds[-1] == kind:
                return len(kinds)
            kinds.append(kind)
            if self.journal is not None:
                try:
                    self.journal.kind(describe, arguments if plain is None else plain)
                except OSError:
                    self.journal = None
            return len(kinds)

    def begin_call(self, kind: int) -> int:
        """Opens the range of one attention call and returns the call's number."""
        seq = next(self._seq)
        try:
            self._slots.memory[seq] = self.context.here.place | kind
        except (IndexError, ValueError):
            self._slots.put(seq, self.context.here.place | kind)
        self._push_attn(seq)
        return seq

    def call_raised(self, call: int, error: BaseException) -> None:
        """The library refused a call, or did not finish it: its kernels may not have run."""
        self._raised[call] = {"raised": type(error).__name__}
        if self.journal is not None:
            with suppress(OSError):
                self.journal.raised(call, type(error).__name__)

    def begin_step(
        self,
        phase: str,
        seqlen_q: int | None,
        seqlen_k: int | None,
        batch: int | None,
        more: dict[str, Any] | None = None,
    ) -> tuple[Any, ...]:
        """Opens one model forward of a phase of STEP_PHASES; returns what encloses it, for ``end_step``.

        Steps count from 0 over the whole process. ``more`` are further facts of it.
        """
        if self.forked:
            self._begin_in_fork()
        made = {"phase": phase, "batch": batch, "seqlen_q": seqlen_q, "seqlen_k": seqlen_k, **(more or {})}
        with self._lock:
            step = len(self.steps)
            self.steps.append({"step": step, **made})
        self._keep_step(step)
        return self._open(step, phase)

    def _open(self, step: int, phase: str) -> tuple[Any, ...]:
        outer = self.context.here.enter(step, phase)
        self._phases[phase].push(step)
        return outer

    @property
    def next_step(self) -> int:
        """The number that the next step will have."""
        if self.forked:
            self._begin_in_fork()
        return len(self.steps)

    def begin_ahead(self, phase: str) -> tuple[Any, ...]:
        """Opens what runs ahead of the next step's forward but is part of it; as ``begin_step``."""
        step = self.next_step
        self._ahead[step] = phase
        return self._open(step, phase)

    def measured(self, batch: int | None, length: int | None) -> None:
        """The step that is open turned out to be of this size."""
        if length is not None:
            self.amend_step(batch=batch, seqlen_q=length, seqlen_k=length)

    def amend_step(self, **facts: Any) -> None:
        """Further facts of the step that is open."""
        step = self.context.here.step
        if step is not None:
            self.steps[step] |= facts
            self._keep_step(step)

    @property
    def open_step(self) -> dict[str, Any]:
        """The facts of the step that is open, {} outside of any."""
        step = self.context.here.step
        return {} if step is None else self.steps[step]

    @property
    def stage(self) -> str | None:
        return self.context.here.stage

    @contextmanager
    def staged(self, stage: str) -> Iterator[None]:
        """Inside the block an engine warms up, or captures a graph: what it calls is of no step."""
        context = self.context.here
        outer, context.stage = context.stage, stage
        try:
            yield
        finally:
            context.stage = outer

    def end_step(self, outer: tuple[Any, ...] = OUTSIDE) -> None:
        here = self.context.here
        self._phases[here.phase].pop()
        here.leave(outer)

    def _keep_step(self, step: int) -> None:
        if self.journal is not None:
            with suppress(OSError):
                self.journal.step(self.steps[step])

    def begin_layer(self, layer: int) -> int:
        """Opens one decoder layer and returns the enclosing place, to be handed to ``end_layer``."""
        here = self.context.here
        outer = here.place
        here.place = here.step_place | of_layer(layer)
        self.push_layer(layer)
        return outer

    def end_layer(self, outer: int) -> None:
        self.pop_layer()
        self.context.here.place = outer

    def found_model(self, model: dict[str, Any], attn_implementation: str | None) -> None:
        """The model that the run is about, where the workload knows it."""
        self._named = True
        self._show_model(model, attn_implementation)

    def met_model(self, model: dict[str, Any], attn_implementation: str | None, role: str) -> int:
        """A model's first step: "decoder", "encoder", or "draft" for another's; returns the model's number.

        The first decoder is the language model, whatever came before it.
        """
        with self._lock:
            self.models.append({**model, "attn_implementation": attn_implementation, "role": role})
            number = len(self.models) - 1
        self._choose_model()
        return number

    def has_role(self, number: int, role: str) -> None:
        """A further step of the model: who drafted first may decode for itself later."""
        if role == "decoder" and self.models[number]["role"] != role:
            self.models[number]["role"] = role
            self._choose_model()

    def generated(
        self,
        model: int,
        first_step: int,
        prompt: tuple[int | None, int | None],
        returned: int | None,
        **more: bool,
    ) -> None:
        """A generate() of the model has ended; ``prompt`` is its batch and length, None where not known.

        ``returned`` is the length of what it returned: the prompt before it, but where that was "embedded";
        the decoder's, where the model "encodes_first".
        """
        made: dict[str, Any] = {"model": model, "first_step": first_step}
        made |= {"steps": len(self.steps) - first_step}
        made |= {"batch": prompt[0], "prompt": prompt[1], "returned": returned, **more}
        self.generations.append(made)
        self.fact("generation", made)

    def _choose_model(self) -> None:
        self.fact("models", self.models)
        chosen = min(self.models, key=lambda model: _ROLES.index(model["role"]))
        if not self._named:
            facts = dict(chosen)
            del facts["role"]
            attn = facts.pop("attn_implementation")
            self._show_model(facts, attn)

    def _show_model(self, model: dict[str, Any], attn_implementation: str | None) -> None:
        if (self.model, self.attn_implementation) != (model, attn_implementation):
            self.model, self.attn_implementation = model, attn_implementation
            self.fact("model", model)
            self.fact("attn_implementation", attn_implementation)

    def note(self, sentence: str) -> None:
        """A sentence for the reader of the run, once however often it is said."""
        if sentence not in self.notes:
            self.notes[sentence] = None
            self.fact("note", sentence)

    def skip_call(self) -> None:
        """A call made while paused. Those of a forked process may be lost: that there were some is kept."""
        if self.forked and self._journal_before_fork is not None:
            self.forked = False
            self._journal_before_fork.forked()

    def write(self, path: Path) -> int:
        """Writes calls.jsonl, one object per call in order of ``seq``; returns the number of calls."""
        fields: dict[int, str] = {}
        with path.open("w", encoding="utf-8") as file:
            for seq, kind, step, layer in self._slots.calls():
                if kind not in fields:
                    describe, arguments = self._kinds[kind - 1]
                    fields[kind] = json.dumps(describe(arguments))[1:-1]
                at = {"seq": seq, "step": step, "phase": self._phase(step), "layer": layer}
                raised = f", {json.dumps(self._raised[seq])[1:-1]}" if seq in self._raised else ""
                file.write(f"{json.dumps(at)[:-1]}, {fields[kind]}{raised}}}\n")
        return self.num_calls

    def _phase(self, step: int | None) -> str:
        if step is None:
            return "other"
        phase: str = self.steps[step]["phase"] if step < len(self.steps) else self._ahead[step]
        return phase

    def fact(self, name: str, value: Any) -> None:
        """What is to be known of the program should it end before ``write``."""
        if self.journal is not None:
            with suppress(OSError):
                self.journal.fact(name, value)

    def _note_fork(self) -> None:
        if self.journal is not None:
            self._journal_before_fork, self.journal = self.journal, None  # which is the other process's
            self._slots = Slots(None)
        self.forked = True
        self.paused = self._journal_of_fork is None

    def _begin_in_fork(self) -> None:
        """At the first step or call of a forked process: what it makes is its own, and counts from 0."""
        if self._journal_of_fork is None:
            return
        self._kinds, self._raised, self._ahead, self._seq = [], {}, {}, itertools.count()
        self.steps, self.generations, self._lock = [], [], threading.RLock()
        for forget in self.forgetting:
            forget()
        try:
            self.journal = self._journal_of_fork()
        except OSError:
            self.paused = True
            self.skip_call()
            return
        self._slots = Slots(self.journal)
        self.forked = False
        for name in ("models", "model", "attn_implementation"):
            self.fact(name, getattr(self, name))
        for sentence in self.notes:
            self.fact("note", sentence)


def _note_fork_of(recorder: weakref.ref[Recorder]) -> None:
    if (alive := recorder()) is not None:
        alive._note_fork()


def shape(tensor: Any) -> Any:
    """What ``sizes`` turns into a list later: the tensor's own shape object where it has one."""
    try:
        return tensor.shape
    except RuntimeError:  # a strided nested tensor has no shape as a whole
        return [_size(tensor, dim) for dim in range(tensor.dim())]


def _size(tensor: Any, dim: int) -> int:
    try:
        return int(tensor.size(dim))
    except RuntimeError:
        return -1


def sizes(recorded: Any) -> list[int] | None:
    """A recorded shape as a list, a ragged dimension as -1; None for None.

    Raises UndescribedError for a size beyond 32 bits.
    """
    return None if recorded is None else [count(n) if type(n) is int else -1 for n in recorded]


def dtype_name(dtype: Any) -> str:
    """``torch.bfloat16`` as "bf16", like the rest of the field."""
    name = str(dtype).removeprefix("torch.")
    return {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "float64": "fp64"}.get(name, name)


def keep(value: Any) -> Any:
    """What can be read after the run without copying now: a tensor with its version, else the value itself.

    Tensors made in inference mode carry no version and are cloned.
    """
    if not hasattr(value, "is_inference"):
        return value
    if value.is_inference():
        return (value.clone(), None)
    return (value, value._version)


def unread(taken: dict[str, Any]) -> dict[str, Any]:
    """The same without the tensors that ``keep`` kept."""
    return {name: _UNREAD if type(value) is tuple else value for name, value in taken.items()}


def kept_value(kept: Any) -> Any:
    """The value behind ``keep``: a number or a list; None if unread, or written to since."""
    if not isinstance(kept, tuple):
        return None if kept == _UNREAD else kept
    tensor, version = kept
    if version is not None and tensor._version != version:
        return None
    return tensor.tolist()
