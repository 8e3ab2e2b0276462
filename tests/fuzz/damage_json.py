"""Damage to JSON, of traces and of run folders, to JSON Lines and to TOML."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from tests.fuzz.damage_bytes import ANY, Damage, flip_bytes
from tests.fuzz.dice import Dice
from tests.fuzz.hostile import NUMBERS, TEXTS

Change = Callable[[Dice, Any], None]
_TOKENS = (
    b"1" * 5_000, b"-0", b"1e999999999", b"1E-999999999", b"-1e400", b"NaN", b"Infinity", b"-Infinity", b"01",
    b"+1", b"0x10", b"1_000", b"9" * 40, b"0.1234567890123456789", b'"\\u0000\\u001b[31m\\ud83d"',
    b'"\\\\u001b\\\\n"',
    b'"\\udc80\\ud800"', b'"\\x"', b'"' + b"\\u0041" * 5_000 + b'"', b'"' + b"x" * 200_000 + b'"',
    b"[" * 100_000, b'{"a":' * 50_000, b"[[[]]]", b"{}", b"null", b"true", b"// no", b"'x'", b"\xff\xfe", b"",
    b'"\x00\x1b"', b'"\xed\xa0\x80"',
)  # fmt: skip
_VALUE = re.compile(rb'(?<=[:,\[]) ?(-?\d[\d.]*|"[^"\\]{0,80}"|null|true|false)')


def _damage(change: Change) -> Damage:
    """A change of the parsed document; one that no longer parses is flipped instead."""

    def damage(dice: Dice, content: bytes) -> bytes:
        try:
            document = json.loads(content)
            change(dice, document)
            return json.dumps(document).encode("utf-8", "surrogatepass")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            return flip_bytes(dice, content)

    damage.__name__ = change.__name__
    return damage


def raw_value(dice: Dice, content: bytes) -> bytes:
    """Values replaced in the text by what parsers disagree about."""
    places = [match.span(1) for match in _VALUE.finditer(content)]
    if not places:
        return flip_bytes(dice, content)
    token = dice.pick(_TOKENS)
    for _ in range(dice.pick((1, 1, 5))):
        start, end = dice.pick(places)
        if content[start:end] and end <= len(content):
            content = content[:start] + token + content[end:]
    return content


def recoded(dice: Dice, content: bytes) -> bytes:
    """Another encoding, or marks and spaces around the text."""
    text = content.decode("utf-8", "replace")
    around = dice.pick(("\ufeff{}", " \n\t{}\n ", "{}\0", "{}{}", "\x1b{}"))
    return dice.pick((text.encode("utf-16"), text.encode("utf-32"), around.replace("{}", text).encode()))


def anything(dice: Dice) -> Any:
    """A value that a field does not expect."""
    nested: Any = dice.pick(([], {}, [[]], [None], {"": {}}, [1, "2", None], {"a": [1]}, True, False))
    kind = dice.below(4)
    return dice.pick(NUMBERS) if kind < 2 else dice.pick(TEXTS) if kind == 2 else nested


def _containers(value: Any, found: list[Any], depth: int = 0) -> list[Any]:
    """Every object and list of a document that holds something."""
    if isinstance(value, (dict, list)) and value and depth < 50 and len(found) < 20_000:
        found.append(value)
        for inner in value.values() if isinstance(value, dict) else value:
            _containers(inner, found, depth + 1)
    return found


def any_field(dice: Dice, document: Any) -> None:
    """Fields anywhere replaced, removed or added."""
    places = _containers(document, [])
    for _ in range(dice.pick((1, 3, 50))):
        place = dice.pick(places)
        key = dice.pick(list(place) if isinstance(place, dict) else range(len(place))) if place else None
        change = dice.below(8)
        if key is None:
            continue
        if change == 0:
            del place[key]
        elif change == 1 and isinstance(place, dict):
            place[dice.pick(TEXTS)] = anything(dice)
        elif change == 2 and isinstance(place, dict):
            place[dice.pick(TEXTS)] = place.pop(key)
        else:
            place[key] = anything(dice)


def drop_key(dice: Dice, document: Any) -> None:
    document.pop(dice.pick(list(document)))


def event_field(dice: Dice, document: Any) -> None:
    """A field of events, or of their arguments."""
    for _ in range(dice.pick((1, 50, 500))):
        event = dice.pick(document["traceEvents"])
        place = event["args"] if "args" in event and dice.chance(0.5) else event
        place[dice.pick(list(place) or ["name"])] = anything(dice)


def same_field(dice: Dice, document: Any) -> None:
    """One field of all events with one value."""
    key = dice.pick(("ts", "dur", "pid", "tid", "name", "cat", "ph", "args"))
    inner = dice.pick(
        ("correlation", "stream", "device", "grid", "block", "Input Dims", "Concrete Inputs", "Input type")
    )
    value, outer = anything(dice), dice.chance(0.5)
    for event in document["traceEvents"]:
        if outer and key in event:
            event[key] = value
        elif not outer and inner in event.get("args", {}):
            event["args"][inner] = value


def hostile_names(dice: Dice, document: Any) -> None:
    """Names that mean something to a terminal, a page or a database."""
    kinds = dice.pick(
        (("kernel", "cuda_runtime"), ("user_annotation", "cpu_op"), ("kernel", "user_annotation"))
    )
    first = dice.below(len(TEXTS))
    for number, event in enumerate(document["traceEvents"]):
        if event.get("cat") in kinds and number % 3 == 0:
            event["name"] = TEXTS[(first + number // 3) % len(TEXTS)]
    for device in document.get("deviceProperties", []):
        device["name"] = dice.pick(TEXTS)


def not_events(dice: Dice, document: Any) -> None:
    document["traceEvents"] = dice.pick(
        (None, 3, "x", {}, [[]], [None], [1, 2], [{}], [{"cat": "kernel", "ph": "X"}])
    )


def device_properties(dice: Dice, document: Any) -> None:
    """GPUs that are none."""
    field = dice.pick(("id", "numSms", "computeMajor", "computeMinor", "name", "sharedMemPerMultiprocessor"))
    devices = document.get("deviceProperties") or [{"id": 0}]
    for device in devices:
        device[field] = anything(dice)
    document["deviceProperties"] = dice.pick((devices, devices, devices * 1000, {"id": 0}, [None], "x"))


def change_times(dice: Dice, document: Any) -> None:
    """Times that run backwards, are all one moment, or overflow."""
    rules: tuple[Callable[[float], Any], ...] = (
        lambda t: -t, lambda _: 0, lambda t: t * 1e9, str, lambda _: 9.2e15, lambda _: -9.2e15,
        lambda _: 1e18,
    )  # fmt: skip
    rule, key = dice.pick(rules), dice.pick(("ts", "dur"))
    for event in document["traceEvents"]:
        if isinstance(event.get(key), (int, float)):
            event[key] = rule(event[key])


def many_ranges(dice: Dice, document: Any) -> None:
    """Annotations inside each other, or each across the next, in thousands."""
    count, step = 5_000, dice.pick((0, 1, 10))
    like = {"ph": "X", "cat": "user_annotation", "pid": 1, "tid": 1}
    document["traceEvents"] += [
        {
            **like,
            "name": f"decode step {i}",
            "ts": i * (step or 1),
            "dur": 2 * (count - i) if not step else count,
        }
        for i in range(count)
    ]


def nested(dice: Dice, document: Any) -> None:
    """Lists inside lists where an event was."""
    value: Any = []
    for _ in range(dice.pick((50, 500))):
        value = [value]
    document["traceEvents"][0] = value


def many_names(dice: Dice, content: bytes) -> bytes:
    """Hundreds of thousands of events, no two of one name."""
    kind = dice.pick(("kernel", "user_annotation", "cuda_runtime", "python_function"))
    dice.note(kind)
    events = (
        f'{{"ph":"X","cat":"{kind}","name":"n{i}","pid":0,"tid":7,"ts":{i},"dur":1,"args":{{"correlation":{i}}}}}'
        for i in range(300_000)
    )
    return ('{"traceEvents":[' + ",\n".join(events) + "]}").encode()


def damaged_lines(dice: Dice, content: bytes) -> bytes:
    """JSON Lines of which some are damaged, dropped or doubled."""
    lines = content.splitlines(keepends=True)
    for _ in range(dice.pick((1, 2, 10)) if lines else 0):
        at = dice.below(len(lines))
        change = dice.below(6)
        if change == 0:
            lines[at] = dice.pick(
                (b"", b"\n", b"[]\n", b"null\n", b"{}\n", lines[at] * 2, lines[at].rstrip())
            )
        elif change == 1:
            lines[at] = raw_value(dice, lines[at])
        else:
            lines[at] = _damage(any_field)(dice, lines[at]) + b"\n"
    return b"".join(lines)


def damaged_toml(dice: Dice, content: bytes) -> bytes:
    """Configuration with values and tables that do not belong there."""
    text = content.decode("utf-8", "replace")
    values = (
        '""', "3", "[]", "{}", "nan", "true", "1979-05-27", '"""', "'", '"\\u001b[31m"', '"\\ud800"',
        '"h20000"',
        '"/dev/null"', '"/nowhere/at/all"', '"9.9.9"', '"' + "x" * 5_000 + '"', "[" * 5_000, "{a=" * 2_000,
    )  # fmt: skip
    lines = text.splitlines()
    at = dice.below(len(lines) + 1)
    key = dice.pick(
        ("gpu", "runs", "version", "library", "nsys", "other", "a.b", '"\\u001b"', "", "[gpu]", "[[runs]]")
    )
    if dice.chance(0.5):
        lines = [line for line in lines if not line.startswith(key)]
    lines.insert(min(at, len(lines)), f"{key} = {dice.pick(values)}")
    return "\n".join(lines).encode("utf-8", "surrogatepass")


_DOCUMENT: tuple[Damage, ...] = (
    raw_value,
    raw_value,
    recoded,
    *map(_damage, (any_field, any_field, drop_key)),
)
JSON: tuple[Damage, ...] = (*ANY, *_DOCUMENT)
TORCH: tuple[Damage, ...] = (
    *ANY,
    *_DOCUMENT,
    *map(
        _damage,
        (event_field, event_field, same_field, same_field, hostile_names, not_events, device_properties,
         change_times, many_ranges, nested),
    ),
)  # fmt: skip
LINES: tuple[Damage, ...] = (*ANY, damaged_lines, damaged_lines, damaged_lines, damaged_lines, raw_value)
TOML: tuple[Damage, ...] = (*ANY, damaged_toml, damaged_toml, damaged_toml)
