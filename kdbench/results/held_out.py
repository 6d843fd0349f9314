"""The held-out score by which a choice between rows is fair: that of the student that is delivered."""

from typing import Any

from kdbench.method.metric import metric_of
from kdbench.results.schema import Record


def with_delivered(record: Record) -> dict[str, Any]:
    """A record's scores, with that one: of a file it is recorded, of a net in torch it is the end of its curve.

    The score at the best epoch would give a trained net a start before a file, of which there is but one.
    """
    metric, scores = metric_of(record), record["scores"]
    curve = (record.get("curves") or {}).get(metric.validation) or [None]
    if metric.delivered in scores:
        return scores
    if record["settings"].get("then"):
        curve = [scores.get(metric.validation)]
    elif record.get("delivered"):  # its curve is of the net that the file was made from
        return scores
    return scores if curve[-1] is None else {**scores, metric.delivered: curve[-1]}
