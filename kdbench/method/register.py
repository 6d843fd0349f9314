"""The registry of methods, and the decorator that fills it."""

from collections.abc import Callable
from typing import Any

from kdbench.errors import UserError, unknown
from kdbench.method.contract import NEEDS
from kdbench.method.kinds import KINDS
from kdbench.registry import Registry, T

METHODS: Registry[Any] = Registry("method")


def register_method(
    name: str,
    *,
    needs: str | tuple[str, ...] = "logits",
    student_needs: str | tuple[str, ...] | None = None,
    paper: str = "",
    year: int | None = None,
    family: str = "",
    sequences: bool = False,
    kinds: str | tuple[str, ...] = (),
) -> Callable[[type[T]], type[T]]:
    """Class decorator that puts a `Method` under `name`.

    `needs` says what the networks must deliver, one or several of `NEEDS`; an empty tuple says that the method needs
    no teacher. `student_needs`: what the student must deliver, where it differs from the teacher. `sequences`: its
    features may also be sequences [B, L, D]; without it maps alone. `kinds`: for which targets it is, `classes`,
    `numbers` or both; where it says nothing, `kdbench.method.kinds.fits` tells by what it needs.
    """
    wanted = (needs,) if isinstance(needs, str) else tuple(needs)
    students = (student_needs,) if isinstance(student_needs, str) else student_needs
    targets = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    for need in {*wanted, *(students or ())}:
        if need not in NEEDS:
            raise UserError(f"method {name!r}: {unknown('need', need, NEEDS)}")
    for kind in targets:
        if kind not in KINDS:
            raise UserError(f"method {name!r}: {unknown('kind', kind, KINDS)}")

    def register(cls: type[T]) -> type[T]:
        about = {"name": name, "needs": wanted, "paper": paper, "year": year, "family": family, "sequences": sequences}
        about["student_needs"] = wanted if students is None else tuple(students)
        about["kinds"] = targets
        for key, value in about.items():
            setattr(cls, key, value)
        METHODS.add(name, cls, cls.__init__)
        return cls

    return register
