"""The recorded process where Python does not find attnprof by itself: ``python -S child_by_path.py SPEC``."""

import importlib.util
import sys
from pathlib import Path


def _load() -> None:
    """Imports the attnprof that this file belongs to."""
    package = Path(__file__).resolve().parents[1]
    spec = importlib.util.spec_from_file_location(
        "attnprof", package / "__init__.py", submodule_search_locations=[str(package)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["attnprof"] = module
    spec.loader.exec_module(module)


if __name__ == "__main__":
    _load()
    from attnprof.workloads.child import start

    sys.exit(start(sys.argv[1:]))
