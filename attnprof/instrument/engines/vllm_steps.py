"""Knows which step of vLLM's scheduler the program is in, which requests it holds, and which layer.

One step is one ``execute_model`` of a model runner that was given tokens. What its scheduler says of each
request is on the host: nothing is read from a device.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

from attnprof.instrument.engines.entry_point import patch_all
from attnprof.instrument.engines.packed_steps import Request, begin_step, reorder
from attnprof.instrument.engines.vllm_model import describe_runner, hook_layers
from attnprof.instrument.recorder import Recorder
from attnprof.instrument.undescribed import reason


def patch(recorder: Recorder, module: Any) -> Callable[[], None]:
    """Hooks the module's GPUModelRunner, of which the CPU's is a subclass; returns what undoes it."""
    cls = module.GPUModelRunner
    watcher = _Watcher(recorder)
    inputs = "_prepare_inputs" if hasattr(cls, "_prepare_inputs") else "prepare_inputs"
    doors: dict[str, Callable[..., Any]] = {
        "execute_model": watcher.execute,
        inputs: watcher.prepare,
        "_dummy_run": watcher.dummy_run,
        "profile_run": functools.partial(watcher.staged, "warmup"),
        "capture_model": functools.partial(watcher.staged, "capture"),
    }
    undo = [_replace(cls, name, door) for name, door in doors.items() if name in vars(cls)]
    if hasattr(module, "set_forward_context"):
        undo.append(_replace(module, "set_forward_context", watcher.forward_context))
    return patch_all(undo)


def _replace(owner: Any, name: str, door: Callable[..., Any]) -> Callable[[], None]:
    original = vars(owner)[name]

    @functools.wraps(original)
    def through(*args: Any, **kwargs: Any) -> Any:
        return door(original, *args, **kwargs)

    setattr(owner, name, through)
    return lambda: setattr(owner, name, original)


class _Runner:
    """What is known of one model runner: its number among the models, and its requests by vLLM's id."""

    def __init__(self, number: int, undo: Callable[[], None]) -> None:
        self.number, self.undo = number, undo
        self.requests: dict[str, tuple[int, int]] = {}  # id -> number, tokens of its prompt
        self.begun = 0

    def scheduled(self, output: Any) -> dict[str, Request]:
        """The requests of a step by vLLM's id, in the scheduler's order."""
        for gone in output.finished_req_ids:
            self.requests.pop(gone, None)
        computed, generated = {}, {}
        for new in output.scheduled_new_reqs:
            self.requests[new.req_id] = self.begun, _prompt_length(new)
            self.begun += 1
            computed[new.req_id], generated[new.req_id] = new.num_computed_tokens, 0
        cached = output.scheduled_cached_reqs
        computed |= dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        generated |= dict(zip(cached.req_ids, cached.num_output_tokens, strict=True))
        return {
            name: self._request(name, tokens, computed[name], generated[name])
            for name, tokens in output.num_scheduled_tokens.items()
        }

    def _request(self, name: str, tokens: int, computed: int, generated: int) -> Request:
        number, prompt = self.requests.get(name, (None, 0))
        # A request that was preempted computes its prompt, and what it had generated, once more.
        known = prompt + max(generated - 1, 0)
        return Request(number, int(tokens), int(computed) + int(tokens), computed < known)


def _prompt_length(new: Any) -> int:
    """Tokens of a request that is new to the runner: of its prompt, or of its embeddings."""
    ids = new.prompt_token_ids
    if ids is not None:
        return len(ids)
    embeds = getattr(new, "prompt_embeds", None)
    return 0 if embeds is None else int(embeds.shape[0])


class _Watcher:
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._runners: weakref.WeakKeyDictionary[Any, _Runner] = weakref.WeakKeyDictionary()

    def execute(self, original: Any, runner: Any, output: Any, *args: Any, **kwargs: Any) -> Any:
        """A step, where the scheduler gave tokens and nobody only tries the model out."""
        recorder = self._recorder
        if recorder.paused or recorder.stage is not None or not output.total_num_scheduled_tokens:
            return original(runner, output, *args, **kwargs)
        if kwargs.get("dummy_run"):
            with recorder.staged("warmup"):
                return original(runner, output, *args, **kwargs)
        try:
            known = self._known(runner)
            requests = known.scheduled(output)
            outer = begin_step(recorder, requests, known.number)
        except Exception as error:  # another vLLM than those known: it runs on, unrecorded
            recorder.note(f"vLLM's steps are not recorded: {reason(error)}")
            return original(runner, output, *args, **kwargs)
        try:
            return original(runner, output, *args, **kwargs)
        finally:
            recorder.end_step(outer)

    def prepare(self, original: Any, runner: Any, *args: Any, **kwargs: Any) -> Any:
        """The requests lie in the batch as they are handed to attention from here on."""
        before = getattr(getattr(runner, "input_batch", None), "req_ids", None)
        if before is not None:
            reorder(self._recorder, before)
        made = original(runner, *args, **kwargs)
        if before is None:
            reorder(self._recorder, getattr(made, "req_ids", None))
        return made

    def dummy_run(self, original: Any, runner: Any, *args: Any, **kwargs: Any) -> Any:
        return self.staged("capture" if kwargs.get("is_graph_capturing") else "warmup", original, runner,
                           *args, **kwargs)  # fmt: skip

    def staged(self, stage: str, original: Any, *args: Any, **kwargs: Any) -> Any:
        with self._recorder.staged(stage):
            return original(*args, **kwargs)

    def forward_context(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        """Which graph replays the step's forward, if any, and for how many tokens it was captured."""
        mode = getattr(kwargs.get("cudagraph_runtime_mode"), "name", None)
        if mode not in (None, "NONE") and self._recorder.stage is None:
            of = kwargs.get("batch_descriptor")
            self._recorder.amend_step(graph=mode.lower(), graph_tokens=getattr(of, "num_tokens", None))
        return original(*args, **kwargs)

    def _known(self, runner: Any) -> _Runner:
        known = self._runners.get(runner)
        if known is None:
            recorder = self._recorder
            facts, backend = describe_runner(runner)
            rank = getattr(runner.vllm_config.parallel_config, "rank", None)
            if isinstance(rank, int) and runner.vllm_config.parallel_config.world_size > 1:
                recorder.fact("rank", rank)
            number = recorder.met_model(facts, backend, "decoder")
            known = self._runners[runner] = _Runner(number, hook_layers(recorder, runner))
        return known
