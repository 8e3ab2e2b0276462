"""attnprof: which attention kernel ran, why that one, and when will it change."""

from __future__ import annotations

__version__ = "0.1.0"
