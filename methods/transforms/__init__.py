"""One file per transform of a student's net. Every file of this folder is imported, as those of `methods` are."""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
