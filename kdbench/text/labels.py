"""Does a net that was trained elsewhere mean the same by class 0 as the data set does?

The known trap of MNLI: public checkpoints put `entailment` first, second or last. A head with the right names in
another order scores far below chance, and a student learns that.
"""

import re
from typing import Any

from kdbench.errors import UserError

UNNAMED = re.compile(r"LABEL_\d+")  # what transformers calls a class that has no name


def head_fits(config: Any, classes: tuple[str, ...], weights: str) -> bool:
    """Was its head trained for these classes, as far as their names tell? Unnamed ones are taken to be these.

    Raises UserError where they are the same in another order.
    """
    own = [plain(config.id2label[place]) for place in sorted(config.id2label)]
    wanted = [plain(name) for name in classes]
    if all(UNNAMED.fullmatch(name) for name in config.id2label.values()):
        return len(own) == len(wanted)
    if sorted(own) == sorted(wanted) and own != wanted:
        raise UserError(
            f"{weights} was trained for the classes {', '.join(own)} in this order; the data set's are "
            f"{', '.join(wanted)}: give the data set the same order of `classes`"
        )
    return own == wanted


def plain(name: object) -> str:
    return re.sub(r"[\s_-]+", " ", str(name)).strip().casefold()
