"""A record's seal, a digest over all that it says: what was changed afterwards, by hand or by a bad disk, is noticed.

It is no proof against a liar, who can seal anew; that is what re-evaluated weights and replayed epochs are for.
"""

import hashlib
import json

from kdbench.results.schema import Record

SEAL = "seal"  # the entry of a record
NOT_SEALED = (SEAL, "reason")  # the latter is made harmless again when it is read


def sealed(record: Record) -> Record:
    """The record with its seal; its numbers must be such as JSON can hold."""
    return {**record, SEAL: seal_of(record)}


def seal_of(record: Record) -> str:
    """What its seal must be: 20 hex digits."""
    said = {name: value for name, value in record.items() if name not in NOT_SEALED}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:20]


def is_intact(record: Record) -> bool | None:
    """Does the record still say what it said when it was sealed? None: it never was, an older version made it."""
    return record[SEAL] == seal_of(record) if SEAL in record else None
