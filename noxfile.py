"""Environments that are built and tried:  nox  runs all of them and writes docs/compatibility.md.

nox -s compat -k newest     one of them
nox -s compatibility        the page, of what was run
nox -s constraints          constraints.txt, with the newest of everything
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import nox

sys.path.insert(0, str(Path(__file__).parent))
from tests.compat import matrix
from tests.compat.constraints import write_constraints
from tests.compat.environments import ENVIRONMENTS, Environment

nox.needs_version = ">=2024.10"
nox.options.default_venv_backend = "uv"
nox.options.sessions = ["compat", "compatibility"]
nox.options.download_python = "never"
# What pip is told of wheels on this machine, uv is told too.
os.environ.setdefault("UV_FIND_LINKS", os.environ.get("PIP_FIND_LINKS", ""))


def _pythons() -> list[nox.param]:
    return [nox.param(one.python, one, id=one.name) for one in ENVIRONMENTS]


@nox.session
@nox.parametrize(["python", "environment"], _pythons())
def compat(session: nox.Session, environment: Environment) -> None:
    """The short suite in one environment."""
    started = time.monotonic()
    session.install(*environment.install)
    installed = session.run("uv", "pip", "freeze", silent=True, external=True) or ""
    report = matrix.report_path(environment.name)
    session.run(
        *("python", "-m", "pytest", "-o", "addopts=", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"),
        *("tests/compat", *session.posargs),
        success_codes=[0, 1],
    )
    failed = matrix.record(environment, installed, report, seconds=time.monotonic() - started)
    if failed:
        session.error(f"{failed} failed under {environment.name}")


@nox.session(venv_backend="none")
def compatibility(session: nox.Session) -> None:
    """Writes docs/compatibility.md: rows of what was run since are new, the others stay as they were."""
    matrix.write_page()


@nox.session(venv_backend="none")
def constraints(session: nox.Session) -> None:
    """Writes constraints.txt."""
    write_constraints()
