"""What must not leave the machine with a page or an export: tokens, environment values, home folders."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from attnprof.safety.quoting import quoted

REDACTED = "<redacted>"

_WORD, _URL_SAFE, _HEX32 = r"[A-Za-z0-9]", r"[A-Za-z0-9_\-]", r"[0-9a-f]{32}(?![A-Za-z0-9])"
_FAMILIES = (  # how a secret of its issuer begins, and what follows
    *((f"gh{kind}_", rf"{_WORD}{{20,}}") for kind in "pousr"),
    ("github_pat_", r"\w{20,}"),
    *((f"gl{kind}-", rf"{_URL_SAFE}{{16,}}") for kind in ("pat", "ptt", "dt", "rt", "ft", "cbt", "soat")),
    ("hf_", rf"{_WORD}{{20,}}"),
    ("api_org_", rf"{_WORD}{{20,}}"),
    ("sk-", rf"(?=[A-Za-z_\-]{{0,64}}\d){_URL_SAFE}{{20,}}"),  # OpenAI, Anthropic, DeepSeek, OpenRouter
    ("xai-", rf"{_WORD}{{40,}}"),
    ("gsk_", rf"{_WORD}{{40,}}"),
    ("pplx-", rf"{_WORD}{{40,}}"),
    ("r8_", rf"{_WORD}{{30,}}"),
    ("nvapi-", rf"{_URL_SAFE}{{20,}}"),
    ("wandb_v1_", r"\w{30,}"),
    *((f"A{kind}A", r"[A-Z0-9]{16}") for kind in ("KI", "SI", "RO", "ID", "BI", "CC")),  # AWS
    ("AIza", rf"{_URL_SAFE}{{30,}}"),
    ("ya29.", rf"{_URL_SAFE}{{20,}}"),
    ("GOCSPX-", rf"{_URL_SAFE}{{20,}}"),
    *((f"xox{kind}-", r"[A-Za-z0-9\-]{10,}") for kind in "abeprs"),
    ("xapp-", r"[A-Za-z0-9\-]{20,}"),
    ("hooks.slack.com/services/", r"[\w/]+"),
    *((f"{kind}_{mode}_", rf"{_WORD}{{16,}}") for kind in ("sk", "rk", "pk") for mode in ("live", "test")),
    ("whsec_", rf"{_WORD}{{20,}}"),
    ("npm_", rf"{_WORD}{{30,}}"),
    ("pypi-", rf"{_URL_SAFE}{{32,}}"),
    *((f"do{kind}_v1_", r"[0-9a-f]{32,}") for kind in "opr"),
    ("SG.", rf"{_URL_SAFE}{{16,64}}\.{_URL_SAFE}{{16,}}"),
    ("SK", _HEX32),  # Twilio
    ("AC", _HEX32),
    ("dapi", r"[0-9a-f]{32}(?:-\d+)?(?![A-Za-z0-9])"),
    ("dckr_pat_", rf"{_URL_SAFE}{{20,}}"),
    ("dckr_oat_", rf"{_URL_SAFE}{{20,}}"),
    ("hvs.", rf"{_URL_SAFE}{{20,}}"),
    ("tskey-", rf"{_URL_SAFE}{{16,}}"),
    ("glsa_", r"\w{30,}"),
    ("lin_api_", rf"{_WORD}{{30,}}"),
    ("ATATT3x", rf"{_URL_SAFE}{{20,}}"),
    ("AGE-SECRET-KEY-", r"[A-Z0-9]{20,}"),
    ("eyJ", rf"{_URL_SAFE}{{8,2048}}\.{_URL_SAFE}{{4,}}(?:\.{_URL_SAFE}*){{0,4}}"),  # JSON web tokens
)  # fmt: skip
_TOKENS = re.compile("(?<![A-Za-z0-9])(?:" + "|".join(re.escape(b) + rest for b, rest in _FAMILIES) + ")")
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|\Z)", re.DOTALL
)
_STORAGE_KEY = re.compile(r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{86}==")  # 64 bytes: Azure
_CREDENTIALS = re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)")
_HEADER = re.compile(r"(?i)(\bauthorization\\?[\"']?\s*[=:]\s*\\?[\"']?(?:basic|bearer|token)\s+)[^\s\"'\\]+")
_BEARER = re.compile(r"(?i)\b(bearer\s+)(?=[^\s\d]*\d)[A-Za-z0-9+/_.=\-]{12,}")

# A secret by its name. "token" alone is an everyday word here: then the value must look like one too.
_NAMES = (
    r"secret|passw(?:or)?d|passphrase|credentials?|(?:api|access|account|private|auth|signing|encryption)"
    r"[_\-]?key|shared[_\-]?access[_\-]?signature"
)
_KEYWORDS = ("secret", "passw", "passphrase", "credential", "key", "signature", "token")
_IS = r"\\?[\"']?\s*(?:=(?!=)|:(?!:))\s*"
_VALUE = r"(?:\\?\"[^\"\\]*\\?\"|'[^']*'|[^\s,;&\"'\\]+)"
_ASSIGNED = re.compile(rf"(?i)((?:{_NAMES})[\w.\-]{{0,40}}{_IS})(?!{re.escape(REDACTED)}){_VALUE}")
_TOKEN_ASSIGNED = re.compile(
    rf"((?i:token){_IS}\\?[\"']?)(?=[\w+/.=\-]{{0,64}}\d)(?=[\w+/.=\-]{{0,64}}[A-Za-z])[\w+/.=\-]{{8,}}(?![\w+/.=\-(\[])"
)
_QUERY = re.compile(r"(?i)([?&](?:sig|signature|key|code|auth|token|x-amz-[a-z\-]+)=)[^&\s\"']+")
_NAME = re.compile(r"[\w.\-]+")
_SECRET_NAME = re.compile(rf"(?i){_NAMES}|(?:token|auth|(?<![a-z])pat)\Z")

_OPAQUE = (  # base64, and a part of a path without a slash
    re.compile(r"(?<![\w+/.\-$])[A-Za-z0-9+/]{40,}={0,2}(?![\w+/.\-])"),
    re.compile(r"(?<![\w+.\-$])[A-Za-z0-9+]{40,}={0,2}(?![\w+.\-])"),
)
_OPAQUE_ENTROPY, _OPAQUE_CHANGES = 0.83, 0.40  # see _is_opaque
_HOMES = re.compile(r"(?:/home/[^/\s\"':,;]+|/Users/[^/\s\"':,;]+|/root)(?=[/\s\"':,;)]|$)")
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=.", re.DOTALL)
_OPTION = re.compile(r"--?([A-Za-z][\w.\-]*)(=.*)?", re.DOTALL)
_SHORTEST_TOKEN = 15
_CACHED_LENGTH = 4096
_MOST_KNOWN = 1 << 16


def hide_secrets(text: str) -> str:
    """``text`` without anything shaped like a credential.

    Names of kernels and files, hashes, UUIDs and numbers stay as they are.
    """
    return _hide_cached(text) if len(text) <= _CACHED_LENGTH else _hide(text)


def redact(text: str) -> str:
    """``text`` without anything shaped like a credential, and with home folders as ``~``."""
    return _without_homes(hide_secrets(text))


def _hide(text: str) -> str:
    if len(text) >= _SHORTEST_TOKEN:
        text = _TOKENS.sub(REDACTED, text)
    if "-----BEGIN" in text:
        text = _PRIVATE_KEY.sub(REDACTED, text)
    if len(text) >= 40:
        text = _STORAGE_KEY.sub(REDACTED, text)
        for words in _OPAQUE:
            text = words.sub(lambda found: REDACTED if _is_opaque(found[0]) else found[0], text)
    if "://" in text:
        text = _CREDENTIALS.sub(REDACTED, text)
        text = _QUERY.sub(rf"\1{REDACTED}", text)
    lowered = text.lower()
    if "bearer" in lowered or "authorization" in lowered:
        text = _BEARER.sub(rf"\1{REDACTED}", _HEADER.sub(rf"\1{REDACTED}", text))
    if ("=" in text or ":" in text) and any(word in lowered for word in _KEYWORDS):
        text = _ASSIGNED.sub(rf"\1{REDACTED}", text)
        text = _TOKEN_ASSIGNED.sub(rf"\1{REDACTED}", text)
    return text


_hide_cached = lru_cache(maxsize=1 << 14)(_hide)


def _is_opaque(word: str) -> bool:
    """Whether 40 or more letters and digits look drawn at random.

    Of random base64, 98 to 99 % is found; of 830,000 symbols, kernel names, paths and lines of source, none.
    """
    word = word.rstrip("=")
    kinds = ["a" if c.islower() else "A" if c.isupper() else "0" if c.isdigit() else "+" for c in word]
    if not {"a", "A", "0"} <= set(kinds):
        return False
    entropy = -sum(n / len(word) * math.log2(n / len(word)) for n in Counter(word).values())
    changes = sum(a != b for a, b in pairwise(kinds)) / (len(word) - 1)
    return entropy >= _OPAQUE_ENTROPY * math.log2(min(len(word), 62)) and changes >= _OPAQUE_CHANGES


def _without_homes(text: str) -> str:
    if "/" not in text:
        return text
    home = str(Path.home())
    if len(home) > 1 and home in text:
        text = re.sub(re.escape(home) + r"(?=[/\s\"':,;)]|$)", "~", text)
    return _HOMES.sub("~", text)


def redact_all(value: Any) -> Any:
    """The same for every string inside lists, tuples and dicts, keys included."""
    if isinstance(value, str):
        return redact(value)
    if value is None or isinstance(value, (int, float)):
        return value
    if isinstance(value, dict):
        return {redact_all(key): _redact_named(key, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact_all(item) for item in value]
    return value


def redact_rows(rows: Iterable[Sequence[Any]]) -> Iterator[list[Any]]:
    """The rows of a table with their texts redacted, a text that comes again only once."""
    redacted = _Redacted()
    for row in rows:
        if len(redacted) > _MOST_KNOWN:
            redacted.clear()
        yield [redacted[value] if isinstance(value, str) else value for value in row]


class _Redacted(dict[str, str]):
    """Texts as they were redacted before."""

    def __missing__(self, text: str) -> str:
        found = self[text] = redact(text)
        return found


def _redact_named(name: object, value: Any) -> Any:
    if isinstance(value, str) and isinstance(name, str) and _is_secret_name(name):
        return REDACTED
    return redact_all(value)


def _is_secret_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and _SECRET_NAME.search(name) is not None


def redact_arguments(arguments: Sequence[str]) -> list[str]:
    """A command line's arguments without what only the person who typed them may know.

    These are values of environment variables, of options such as ``--api-key``, and what ``hide_secrets``
    finds, also inside JSON.
    """
    shown: list[str] = []
    previous, in_environment = "", False
    for argument in arguments:
        variable = _VARIABLE.match(argument)
        option = _OPTION.fullmatch(argument)
        in_environment = Path(argument).name == "env" or (in_environment and bool(variable or option))
        of_environment = (
            in_environment or previous in ("-e", "--env") or bool(variable and variable[1].isupper())
        )
        if variable and of_environment:
            shown.append(f"{variable[1]}={REDACTED}")
        elif _names_secret(previous) and not argument.startswith("-") and not argument.isdecimal():
            shown.append(REDACTED)
        elif option and option[2] and _is_secret_name(option[1]) and not option[2][1:].isdecimal():
            shown.append(f"{argument.partition('=')[0]}={REDACTED}")
        elif argument.startswith("{"):
            shown.append(_redact_json(argument))
        else:
            shown.append(hide_secrets(argument))
        previous = argument
    return shown


def _names_secret(argument: str) -> bool:
    """Whether it is an option whose value follows as the next argument, and is a secret."""
    option = _OPTION.fullmatch(argument)
    return option is not None and option[2] is None and _is_secret_name(option[1])


def _redact_json(text: str) -> str:
    try:
        return json.dumps(_redact_values(json.loads(text)))
    except (ValueError, RecursionError):
        return hide_secrets(text)


def _redact_values(value: Any) -> Any:
    """JSON with every list of strings taken for a command line."""
    if isinstance(value, dict):
        return {
            name: REDACTED if isinstance(item, str) and _is_secret_name(name) else _redact_values(item)
            for name, item in value.items()
        }
    if isinstance(value, list):
        if value and all(isinstance(item, str) for item in value):
            return redact_arguments(value)
        return [_redact_values(item) for item in value]
    return hide_secrets(value) if isinstance(value, str) else value


def redact_command(arguments: Sequence[str]) -> str:
    """A command line that can be read and shared: its arguments redacted, and home folders as ``~``."""
    parts = [_without_homes(part) for part in redact_arguments(arguments)]
    return " ".join(part if part.endswith(REDACTED) else quoted(part) for part in parts)
