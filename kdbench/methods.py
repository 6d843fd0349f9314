"""In a checkout `kdbench.methods` is the folder `methods/` beside this package; in the wheel it is that folder."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_HOME = Path(__file__).resolve().parents[1] / "methods"
_spec = spec_from_file_location(__name__, _HOME / "__init__.py", submodule_search_locations=[str(_HOME)])
if _spec is None or _spec.loader is None or not _HOME.is_dir():
    raise ImportError(f"the methods are not there: {_HOME}")
_module = sys.modules[__name__] = module_from_spec(_spec)
_spec.loader.exec_module(_module)
