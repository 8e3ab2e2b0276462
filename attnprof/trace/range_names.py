"""What the name of a range says of phase, step, layer and attention call."""

from __future__ import annotations

import re

import numpy as np

from attnprof.arrays import Narrow, occurring
from attnprof.trace.tables import Bool, Int32, Trace

PREFILL, DECODE, MIXED, ENCODE, DRAFT, UNKNOWN_PHASE = range(1, 7)  # places in model.PHASES
OWN_DOMAIN = "attnprof"
NONE = {"phase": 0, "step": -1, "layer": -1, "call": -1}  # each attribute and its value where unknown

# attnprof's own ranges: name -> (phase, the attribute its payload gives)
_OWN = {
    "prefill": (PREFILL, "step"),
    "decode": (DECODE, "step"),
    "mixed": (MIXED, "step"),
    "encode": (ENCODE, "step"),
    "draft": (DRAFT, "step"),
    "layer": (0, "layer"),
    "attn": (0, "call"),
}

# Anybody else's, matched anywhere in the name; the first group that matched is the number.
_LONGEST = 4096  # characters; a longer name says nothing, and may be made to take the rules long
_MAYBE = re.compile(r"step|layer|prefill|decode|execute_", re.IGNORECASE)
_NUMBERS = {
    "step": re.compile(r"(?<![a-z])step[-=:. _#]{0,2}(\d{1,9})(?!\d)|ProfilerStep#(\d{1,9})$", re.IGNORECASE),
    "layer": re.compile(r"(?<![a-z])layers?[-=:. _#]{0,2}(\d{1,9})(?!\d)", re.IGNORECASE),
}
_PHASES = (  # a word that must be there, the rule, the phase
    ("prefill", re.compile(r"(?<![a-z])prefill(?![a-z])", re.IGNORECASE), PREFILL),
    ("decode", re.compile(r"(?<![a-z])decode(?![a-z])", re.IGNORECASE), DECODE),
    ("step[mixed", re.compile(r"(?<![a-z])step\[mixed(?![a-z])", re.IGNORECASE), MIXED),  # SGLang
    ("step[extend", re.compile(r"(?<![a-z])step\[extend(?![a-z])", re.IGNORECASE), PREFILL),  # SGLang
    ("execute_", re.compile(r"execute_(\d+_)?context_[1-9]\d*\(.*_generation_0\("), PREFILL),  # vLLM, SGLang
    ("execute_", re.compile(r"execute_(\d+_)?context_0\(.*_generation_[1-9]"), DECODE),
    ("execute_", re.compile(r"execute_(\d+_)?context_[1-9]\d*\(.*_generation_[1-9]"), MIXED),
)


def own_calls(trace: Trace) -> Bool:
    """Which ranges are of attention calls that attnprof recorded: their payload is the call's number."""
    ranges, strings = trace.ranges, trace.strings
    domain, name = _reads(ranges.domain, OWN_DOMAIN, strings), _reads(ranges.name, "attn", strings)
    return ranges.has_payload & domain & name


def named_attributes(trace: Trace) -> tuple[dict[str, Int32], Bool]:
    """Each attribute of each range by its name alone, and which ranges are attnprof's own.

    Where attnprof's ranges give an attribute (phase and step being one), other names are not asked for it.
    """
    ranges, strings = trace.ranges, trace.strings
    own = ranges.has_payload & _reads(ranges.domain, OWN_DOMAIN, strings)
    own = own & (ranges.payload >= 0) & (ranges.payload <= np.iinfo(np.int32).max)
    said = {key: np.full(len(ranges), none, np.int32) for key, none in NONE.items()}
    for name, (phase, key) in _OWN.items():
        mine = own & _reads(ranges.name, name, strings)
        said[key][mine] = ranges.payload[mine]
        said["phase"][mine] = phase
    wanted = [
        keys
        for keys in (("phase", "step"), ("layer",))
        if not any((said[key] != NONE[key]).any() for key in keys)
    ]
    foreign = _foreign(trace) if wanted else {}
    for keys in wanted:
        said |= {key: foreign[key] for key in keys}
    return said, own


def _reads(column: Narrow, text: str, strings: list[str]) -> Bool:
    """Where the column's text is ``text``, which may be in ``strings`` twice: as a process's name, say."""
    return np.isin(column, [index for index, string in enumerate(strings) if string == text])


def _foreign(trace: Trace) -> dict[str, Int32]:
    """Each attribute by the rules for other people's names, applied once per distinct name."""
    ranges = trace.ranges
    by_text = {key: np.full(len(trace.strings), none, np.int32) for key, none in NONE.items()}
    for i in occurring(ranges.name, len(trace.strings)).tolist():
        for key, value in said_by(trace.strings[i]).items():
            by_text[key][i] = value
    return {key: values[ranges.name] for key, values in by_text.items()}


def said_by(text: str) -> dict[str, int]:
    """The phase, step and layer that a name of other people's gives, those alone."""
    said: dict[str, int] = {}
    if len(text) > _LONGEST or not _MAYBE.search(text):
        return said
    lower = text.lower()
    for word, rule, phase in _PHASES:
        if word in lower and rule.search(text):
            said["phase"] = phase
            break
    for key, rule in _NUMBERS.items():
        if key in lower and (found := rule.search(text)):
            said[key] = int(found[found.lastindex or 1])
    return said
