"""One recorded attention call as a small Python program that makes it again and times it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnprof.dispatch.libraries import library
from attnprof.errors import UsageError
from attnprof.report.explain import call_in_words
from attnprof.report.profiling import ncu_words
from attnprof.safety.printable import printable
from attnprof.safety.redact import redact

if TYPE_CHECKING:
    from attnprof.check.verdicts import CheckedCall

_WARM_UP, _TIMED = 10, 100
_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
_TIMING = f"""

def main():
    for _ in range({_WARM_UP}):
        call()
    times = []
    if device == "cuda":
        for _ in range({_TIMED}):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) * 1e3)
    else:
        for _ in range({_TIMED}):
            begin = time.perf_counter()
            call()
            times.append((time.perf_counter() - begin) * 1e6)
    times.sort()
    median, least = times[len(times) // 2], times[0]
    print(f"median {{median:.2f}} us, least {{least:.2f}} us, of {{len(times)}} calls on {{device}}")


main()
"""


def replay_script(call: CheckedCall, number: int, run: str, version: str) -> str:
    """The program's text. Raises UsageError where the call's arguments are not known well enough."""
    if call.call is None:
        raise UsageError(
            f"the arguments of call {number} were not recorded",
            hint="attnprof run records them, torch.profiler does with record_shapes=True",
        )
    made = library(call.call.library).replay(call.call)
    dtype = _DTYPES.get(call.call.dtype)
    if made is None or dtype is None:
        raise UsageError(
            f"call {number} cannot be made again from its record: {call_in_words(call.call, version)}",
            hint="its library's function takes more than was recorded",
        )
    name = " ".join(printable(redact(run)).replace('"', "'").replace("\\", "/").split())
    head = [
        f'"""Attention call {number} of {name}, made again with random tensors and timed.',
        "",
        f"{call_in_words(call.call, version)}",
        *(f"It ran {' + '.join(signature.kernel for signature in call.observed.signatures)}"
          f" with grid {'x'.join(map(str, call.observed.launches[0].grid))}."
          for _ in "1" if call.observed is not None),
        '"""',
        "",
        "import sys",
        "import time",
        "",
        "import torch",
        *made.imports,
        "",
        'device = sys.argv[1] if sys.argv[1:] else "cuda" if torch.cuda.is_available() else "cpu"',
        f"dtype = torch.{dtype}",
        "torch.manual_seed(0)",
    ]  # fmt: skip
    return "\n".join([*head, *made.lines]) + "\n" + _TIMING


def ncu_of_replay(call: CheckedCall, program: str) -> str:
    """The same for the program that :func:`replay_script` writes; "" where the kernel is not known."""
    launches = call.observed.signatures if call.observed is not None else ()
    return ncu_words(launches[0].kernel, _WARM_UP, program) if launches else ""
