"""A run folder held open while it is read."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from attnprof.errors import AttnprofError, RunError


class OpenFolder:
    """Holds ``folder`` open, so that another put in its place is noticed: one run is never read as two.

    Raises RunError where it cannot be opened.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise RunError(
                f"{folder} cannot be opened: {error.strerror}", hint="attnprof runs lists the runs"
            ) from error
        weakref.finalize(self, os.close, self._descriptor)

    def still_there(self) -> bool:
        """Whether the folder still stands under its name."""
        with suppress(OSError):
            return os.path.samestat(os.fstat(self._descriptor), self.folder.stat())
        return False

    def rename(self, name: str, to: str) -> None:
        """Renames a file of the folder that is held, even where another stands under its name by now."""
        os.rename(name, to, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Raises RunError where a file that the block opened may not belong to the folder that is held."""
        try:
            yield
        except (AttnprofError, OSError):
            if self.still_there():
                raise
        if not self.still_there():
            raise RunError(
                f"{self.folder} was replaced or removed while it was being read", hint="run the command again"
            )
