"""Synthetic secrets of many kinds, made when a test runs: no file holds anything shaped like one."""

from __future__ import annotations

import base64
import random
import string
from dataclasses import dataclass

_ALNUM = string.ascii_letters + string.digits
_HEX = "0123456789abcdef"
_SHAPES = {  # what a secret begins with, over which characters it goes on, and how many of them
    "hugging-face": ("hf_", _ALNUM, 34),
    "github-classic": ("ghp_", _ALNUM, 36),
    "github-fine-grained": ("github_pat_", _ALNUM, 82),
    "github-app": ("ghs_", _ALNUM, 36),
    "gitlab": ("glpat-", _ALNUM, 20),
    "openai": ("sk-", _ALNUM, 48),
    "openai-project": ("sk-proj-", _ALNUM, 74),
    "anthropic": ("sk-ant-api03-", _ALNUM, 93),
    "aws-key-id": ("AKIA", string.ascii_uppercase + string.digits, 16),
    "google-api": ("AIza", _ALNUM, 35),
    "google-oauth": ("ya29.", _ALNUM, 60),
    "slack": ("xoxb-", string.digits, 24),
    "stripe": ("sk_live_", _ALNUM, 24),
    "npm": ("npm_", _ALNUM, 36),
    "pypi": ("pypi-AgEIcHlwaS5vcmc", _ALNUM, 70),
    "digitalocean": ("dop_v1_", _HEX, 64),
    "nvidia": ("nvapi-", _ALNUM, 64),
    "sendgrid": ("SG.abcdefghij0123456789AB.", _ALNUM, 43),
    "twilio": ("SK", _HEX, 32),
    "databricks": ("dapi", _HEX, 32),
    "docker": ("dckr_pat_", _ALNUM, 27),
    "replicate": ("r8_", _ALNUM, 37),
    "wandb": ("WANDB_API_KEY=", _HEX, 40),
    "cohere": ("COHERE_API_KEY=", _ALNUM, 40),
    "aws-secret": ("aws_secret_access_key=", _ALNUM + "+", 40),
    "azure-storage": ("DefaultEndpointsProtocol=https;AccountName=me;AccountKey=", _ALNUM, 86),
    "password": ("PASSWORD=", _ALNUM, 18),
    "bearer": ("Authorization: Bearer ", _ALNUM, 40),
    "opaque": ("", _ALNUM + "+", 44),
}


@dataclass(frozen=True, slots=True)
class Secret:
    """``text`` is what is planted, ``needle`` the part of it that must be found nowhere."""

    kind: str
    text: str
    needle: str

    @property
    def fits_a_path(self) -> bool:
        return "/" not in self.text and "\n" not in self.text and len(self.text) < 120


def secrets(place: str) -> list[Secret]:
    """One secret of each kind, others for each ``place``."""
    draw = random.Random(f"secrets of {place}")
    made = []
    for kind, (begin, letters, count) in _SHAPES.items():
        # The first three characters make sure of a random string's usual mixture.
        rest = "".join([*(_first(letters)), *(draw.choice(letters) for _ in range(count - 3))])
        end = "==" if kind == "azure-storage" else ""
        made.append(Secret(kind, begin + rest + end, rest[3:]))
    return [*made, _json_web_token(draw), _private_key(draw), _url(draw)]


def _first(letters: str) -> str:
    return "a1B" if set("a1B") <= set(letters) else (letters[0] + letters[-1] + letters[0])


def _json_web_token(draw: random.Random) -> Secret:
    parts = [b'{"alg":"HS256","typ":"JWT"}', b'{"sub":"1234567890"}', draw.randbytes(32)]
    encoded = [base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts]
    return Secret("json-web-token", ".".join(encoded), encoded[2])


def _private_key(draw: random.Random) -> Secret:
    lines = [base64.b64encode(draw.randbytes(48)).decode() for _ in range(3)]
    edges = [f"-----{word} RSA PRIVATE KEY-----" for word in ("BEGIN", "END")]
    return Secret("private-key", "\n".join([edges[0], *lines, edges[1]]), lines[1][:30])


def _url(draw: random.Random) -> Secret:
    word = "".join(draw.choice(_ALNUM) for _ in range(16))
    return Secret("basic-auth", f"https://me:{word}@example.org/models", word)
