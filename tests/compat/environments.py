"""The environments that the suite is run in. No package is needed to read this."""

from __future__ import annotations

from dataclasses import dataclass

PYTHON = "3.11"
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
TRANSFORMERS = ("4.48", "4.52", "4.55", "4.57", "5.0", "5.10", "5.17", "5.20", "5.22", "5.23", "5.24")
_OLDER_TORCH = "torch==2.13.0"  # for versions of transformers that were used with a torch of their day


@dataclass(frozen=True)
class Environment:
    """What is installed beside attnprof. ``options`` are of ``uv pip install``."""

    name: str
    python: str = PYTHON
    extras: str = "run,parquet"
    options: tuple[str, ...] = ()

    @property
    def install(self) -> list[str]:
        """Arguments of ``uv pip install``."""
        return [*self.options, f".[{self.extras}]", "pytest"]


ENVIRONMENTS = (
    Environment("lowest", options=("--resolution=lowest-direct", "pytest>=8.1")),
    Environment("constrained", options=("--constraints=constraints.txt",)),
    Environment("newest"),
    Environment("reading", extras="parquet", options=("--constraints=constraints.txt",)),
    *(
        Environment(f"transformers {version}", options=(f"transformers=={version}.*", _OLDER_TORCH))
        for version in TRANSFORMERS
    ),
    *(
        Environment(f"Python {version}", version, options=("--constraints=constraints.txt",))
        for version in PYTHONS
        if version != PYTHON
    ),
)
