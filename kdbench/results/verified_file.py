"""What a judgement found of a suite's cells, beside its records: for tables, which show it of each row."""

import json
from collections.abc import Collection, Iterable, Mapping

from kdbench.files import write_json
from kdbench.layout import SuiteFolder
from kdbench.results.schema import Record
from kdbench.results.seal import SEAL, is_intact

WEIGHTS, EPOCH = "weights", "epoch"  # re-evaluated, replayed: what a cell may have, both or one


def read_verified(folder: SuiteFolder, records: Iterable[Record]) -> dict[str, str]:
    """Key -> which of the two, of the records that still are what was judged; a damaged file tells nothing."""
    try:
        found = json.loads(folder.verified.read_bytes())
        noted = {str(key): (str(seal), {*words} & {WEIGHTS, EPOCH}) for key, (seal, words) in found.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
    seals = {record["key"]: record[SEAL] for record in records if SEAL in record}
    same = {key: words for key, (seal, words) in noted.items() if words and seal == seals.get(key)}
    return {key: " ".join(sorted(words)) for key, words in same.items()}


def note_verified(folder: SuiteFolder, records: Iterable[Record], found: Mapping[str, Collection[str]]) -> None:
    """Add what was found now; what was found before of the same record stays."""
    whole = [record for record in records if is_intact(record)]
    before = read_verified(folder, whole)
    both = {r["key"]: sorted({*before.get(r["key"], "").split(), *found.get(r["key"], ())}) for r in whole}
    write_json(folder.verified, {r["key"]: [r[SEAL], both[r["key"]]] for r in whole if both[r["key"]]})
