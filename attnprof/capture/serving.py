"""A server that runs: which engine it is, its profiler started and stopped over HTTP, a load to profile.

Nothing is sent beyond this machine unless that is allowed, no redirect is followed, no proxy is asked.
"""

from __future__ import annotations

import ipaddress
import json
import os
import random
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

from attnprof.errors import CaptureError, UsageError
from attnprof.safety.printable import printable

TOKEN = "ATTNPROF_SERVER_TOKEN"  # environment variable, sent as the bearer token; written nowhere
_LARGEST = 1 << 20  # bytes of an answer that are read
_ANSWER_S = 30.0
_FLUSH_S = 900.0  # vLLM answers when its traces are written, which takes minutes for a long profile
_LOAD_TOKENS = 64


@dataclass(frozen=True)
class Server:
    """``address`` is scheme://host:port. ``model`` is the name under which it serves."""

    address: str
    engine: str
    version: str | None
    model: str | None

    @property
    def port(self) -> int:
        parts = urllib.parse.urlsplit(self.address)
        return parts.port or (443 if parts.scheme == "https" else 80)


class RefusedError(CaptureError):
    """The server answered with an error; ``code`` is HTTP's."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def address_of(url: str, *, remote: bool) -> str:
    """The scheme, host and port of a URL. Raises UsageError for one that may not be asked."""
    parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"--url: {printable(str(error))}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise UsageError("--url is no address of a server", hint="--url http://127.0.0.1:8000")
    if parts.username is not None or parts.password is not None:
        raise UsageError("--url holds credentials", hint=f"leave them out; a token is read from {TOKEN}")
    if not remote and not _is_local(host):
        raise UsageError(
            f"{printable(host)} is another machine", hint="its traces lie there too; --remote asks it anyway"
        )
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + (f":{port}" if port else "")


def _is_local(host: str) -> bool:
    """Whether every address of a host is of this machine's loopback."""
    try:
        found = {str(one[4][0]).partition("%")[0] for one in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return bool(found) and all(ipaddress.ip_address(one).is_loopback for one in found)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)


def ask(address: str, path: str, body: dict[str, Any] | None = None, *, seconds: float = _ANSWER_S) -> bytes:
    """What the server answers to a GET, or to a POST of ``body``.

    Raises RefusedError where it answers with an error, CaptureError where it does not answer.
    """
    headers = {"Content-Type": "application/json"} if body is not None else {}
    if token := os.environ.get(TOKEN):
        headers["Authorization"] = f"Bearer {token}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{address}{path}", data=data, headers=headers)
    try:
        with _OPENER.open(request, timeout=seconds) as answer:
            found: bytes = answer.read(_LARGEST)
            return found
    except urllib.error.HTTPError as error:
        with error:
            said = printable(error.read(400).decode("utf-8", "replace"))
        raise RefusedError(error.code, f"{address}{path} answered {error.code}: {said}".strip()) from error
    except (OSError, HTTPException) as error:
        why = getattr(error, "reason", None) or error
        raise CaptureError(
            f"{address} does not answer: {printable(str(why))}", hint="is the server running, on that port?"
        ) from error


def _json(address: str, path: str) -> dict[str, Any] | None:
    """The object that the server answers; None where it has no such page."""
    try:
        found = json.loads(ask(address, path))
    except (RefusedError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def find_server(address: str) -> Server:
    """Which engine answers there. Raises CaptureError where none does, or neither vLLM nor SGLang."""
    for engine, pages in (("sglang", ("/get_server_info", "/server_info")), ("vllm", ("/version",))):
        for page in pages:
            said = _json(address, page)
            if said is not None and "version" in said:
                return Server(address, engine, _text(said["version"]), _model(address))
    raise CaptureError(
        f"{address} answers, but as neither vLLM nor SGLang",
        hint="profile it with its own tools, then: attnprof import TRACE",
    )


def _text(value: object) -> str | None:
    return printable(value)[:200] if isinstance(value, str) else None


def _model(address: str) -> str | None:
    listed = (_json(address, "/v1/models") or {}).get("data")
    first = listed[0] if isinstance(listed, list) and listed else None
    return _text(first.get("id")) if isinstance(first, dict) else None


_ENABLE = {
    "vllm": "start it with --profiler-config.profiler=torch --profiler-config.torch_profiler_dir=/tmp/traces"
    " (before 0.13: VLLM_TORCH_PROFILER_DIR=/tmp/traces)",
    "sglang": "it must be one that has /start_profile",
}


def start_profile(server: Server, *, steps: int | None, folder: str | None) -> None:
    """Begins to profile, into ``folder`` where the engine takes one. Raises CaptureError."""
    body: dict[str, Any] = {}
    if server.engine == "sglang":
        body = {"output_dir": folder, "activities": ["CPU", "GPU"], "record_shapes": True}
        body |= {"num_steps": steps} if steps is not None else {}
    elif steps is not None:
        body = {"max_iterations": steps}
    try:
        ask(server.address, "/start_profile", body, seconds=_FLUSH_S)
    except RefusedError as error:
        if error.code in (404, 405):
            raise CaptureError(f"{server.address} does not profile: it has no /start_profile",
                               hint=_ENABLE[server.engine]) from error  # fmt: skip
        raise


def stop_profile(server: Server) -> None:
    """Ends it; vLLM answers when the traces are written."""
    ask(server.address, "/stop_profile", {}, seconds=_FLUSH_S)


class Load:
    """``count`` requests of random tokens at once, each from a thread of its own."""

    def __init__(self, server: Server, count: int) -> None:
        self._server, self._failed = server, list[str]()
        self._threads = [
            threading.Thread(target=self._send, args=(number,), daemon=True) for number in range(count)
        ]

    def begin(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def going(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def note(self) -> str | None:
        """A sentence where requests failed."""
        if not self._failed:
            return None
        return f"{len(self._failed)} of {len(self._threads)} requests of the load failed: {self._failed[0]}"

    def _send(self, number: int) -> None:
        chosen = random.Random(number)
        length = 16 + 112 * number // max(len(self._threads) - 1, 1)
        body = {
            "model": self._server.model,
            "prompt": [chosen.randrange(1, 1000) for _ in range(length)],
            "max_tokens": _LOAD_TOKENS,
            "ignore_eos": True,
            "temperature": 0.0,
        }
        try:
            ask(self._server.address, "/v1/completions", body, seconds=_FLUSH_S)
        except CaptureError as error:
            self._failed.append(error.message)
