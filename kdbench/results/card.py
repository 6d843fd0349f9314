"""What the user of an exported student must know: it stands in the file itself and as JSON beside it."""

import json
from typing import Any

import scipy

from kdbench.data import DATASETS
from kdbench.method.kinds import NUMBERS
from kdbench.method.metric import TOP1, metric_of
from kdbench.results.schema import Record


def card(record: Record) -> dict[str, Any]:
    """Class names in the order of the logits, how an example becomes an input, who taught it, how good it is."""
    return {
        "model": record["student"],
        "classes": class_names(record),
        **({"answer": "one number for each example"} if record.get("kind") == NUMBERS.name else {}),
        "inputs": {field["name"]: field for field in (record.get("inputs") or {}).get("fields", ())},
        "input": (record.get("inputs") or {}).get("about", ""),
        "prepare": prepared(record),
        "score": score(record),
        "dataset": record["dataset"],
        "teacher": record["teacher"],
        "objective": record["label"],
        "losses": record["settings"].get("objective") or {},  # a row may be called anything
        "suite": record["suite"],
        "kdbench.key": record["key"],
        "versions": record.get("versions") or {},
    }


def about(key: str) -> dict[str, str]:
    """All that the ONNX file of a student says of itself where files are measured: what a card adds would count too."""
    return {"kdbench.key": key}


def class_names(record: Record) -> list[str]:
    """Their numbers where the data set names none; none where the student says a number."""
    if record.get("kind") == NUMBERS.name:
        return []
    return record.get("classes") or [str(number) for number in range(record.get("num_classes") or 0)]


def prepared(record: Record) -> dict[str, Any]:
    """What the data set does to an example before it is an input, as it says itself; else nothing."""
    settings = dict(record["settings"].get("dataset") or {})
    name = settings.pop("name", None)
    prepare = DATASETS[name].prepare if name in DATASETS else None
    return prepare(**settings) if prepare else {}


def score(record: Record) -> dict[str, Any]:
    """On the test examples, with the interval for new ones where the score is a share of right answers."""
    metric, count = metric_of(record), record.get("num_test")
    found = {"metric": metric.title, "unit": metric.unit, "test": record["scores"][metric.test], "num_test": count}
    if metric.name == TOP1.name and count:
        right = round(found["test"] / 100 * count)
        found["interval_95"] = [
            100 * float(end) for end in scipy.stats.binomtest(right, count).proportion_ci(0.95, "wilson")
        ]
    found["teacher"] = record["scores"].get(metric.teacher)
    return found


def as_metadata(about: dict[str, Any]) -> dict[str, str]:
    """Texts as they are, all else as JSON."""
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in about.items()}
