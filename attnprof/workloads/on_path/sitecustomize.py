"""Read by every Python that starts with this folder on PYTHONPATH: records it where ATTNPROF_RECORD says so.

Any Python from 2.7 on must get past it as if it were not there. Nothing of attnprof is imported before
somebody looks for torch.
"""

import os
import sys

_HERE = os.path.dirname(__file__)
_LIBRARY = "torch"  # whatever computes attention imports it
_OLDEST = (3, 10)


class _WhenTorchIsImported(object):
    """Begins to record when somebody looks for torch, which is not there before."""

    def __init__(self, told):
        self._told = told

    def find_spec(self, name, path=None, target=None):
        if name != _LIBRARY:
            return None
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        import importlib.util

        if importlib.util.find_spec(name) is None:
            return None
        _begin(self._told)
        return importlib.util.find_spec(name)  # as those see it who came in between


def _begin(told):
    ranges, package, folder = told.split("|", 2)
    try:
        if sys.version_info < _OLDEST:
            raise ImportError("Python %d.%d is older than %d.%d" % (sys.version_info[:2] + _OLDEST))
        _import_attnprof(package)
        from attnprof.workloads.injected import begin

        begin(ranges, folder)
    except Exception as error:
        _leave_word(folder, "%s: %s" % (type(error).__name__, error))


def _import_attnprof(package):
    """The attnprof that records; this environment need not have it."""
    import importlib.util

    if "attnprof" in sys.modules:
        return
    found = importlib.util.find_spec("attnprof")
    if found is None:
        init = os.path.join(package, "__init__.py")
        found = importlib.util.spec_from_file_location("attnprof", init, submodule_search_locations=[package])
        module = importlib.util.module_from_spec(found)
        sys.modules["attnprof"] = module
        found.loader.exec_module(module)
    elif os.path.realpath(os.path.dirname(found.origin or "")) != os.path.realpath(package):
        raise ImportError("another attnprof is installed there, in %s" % os.path.dirname(found.origin or "?"))


def _leave_word(folder, why):
    try:
        with open(os.path.join(folder, "%d.unrecorded" % os.getpid()), "w") as file:
            file.write(why)
    except Exception:
        pass


def _next_sitecustomize():
    """The one that Python would have read, and reads now; ImportError where there is none, as alone."""
    sys.path[:] = [entry for entry in sys.path if entry != _HERE]
    if sys.version_info[0] < 3:
        import imp

        opened, path, description = imp.find_module("sitecustomize", sys.path)
        with opened:
            imp.load_module("sitecustomize", opened, path, description)
        return
    # importlib.util would bring a dozen modules with it, at every start.
    import _frozen_importlib
    import _frozen_importlib_external

    spec = _frozen_importlib_external.PathFinder.find_spec("sitecustomize", sys.path)
    if spec is None or spec.loader is None:
        raise ImportError("No module named 'sitecustomize'", name="sitecustomize")
    module = _frozen_importlib.module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


try:
    if os.environ.get("ATTNPROF_RECORD") and sys.version_info[0] >= 3:
        sys.meta_path.insert(0, _WhenTorchIsImported(os.environ["ATTNPROF_RECORD"]))
except Exception:
    pass
_next_sitecustomize()
