"""What decides a number, as canonical JSON: parts of a cell's identity. What is off (None) is not in it."""

import hashlib
import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from kdbench.data import DATASETS, NOT_THERE, digest_of
from kdbench.errors import UserError
from kdbench.method.metric import METRICS
from kdbench.method.register import METHODS
from kdbench.nets import NETS, digest_of_net
from kdbench.registry import Registry
from kdbench.suite.frozen import Frozen
from kdbench.suite.objectives import BASELINES, ObjectiveSpec, objective
from kdbench.suite.spec import DatasetSpec, ModelSpec
from kdbench.suite.steps import steps_of


def fingerprint(identity: dict[str, Any]) -> str:
    """The first 20 hex digits of the SHA-256 of canonical JSON."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:20]


def objective_identity(phases: ObjectiveSpec) -> Any:
    """As it stands in a record: a table of methods, or a list of phases. What is off (None) is left out."""
    parts = [{"epochs": epochs, "terms": _without_none(terms)} for epochs, terms in phases]
    return json.loads(json.dumps(parts if len(parts) > 1 else parts[0]["terms"]))


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    """The same table, and those in it, without what is None."""
    found = {k: v for k, v in table.items() if v is not None}
    return {k: _without_none(v) if isinstance(v, dict) else v for k, v in found.items()}


def alone() -> list[Any]:
    """The objectives that are plain labels: of classes, and of numbers."""
    return _alone(*(METHODS.form(name) for name in BASELINES.values()))


@lru_cache(maxsize=4)
def _alone(*forms: type) -> list[Any]:
    return [objective_identity(objective({name: 1.0})) for name in BASELINES.values()]


@lru_cache(maxsize=4096)
def _dump_text(spec: Frozen) -> str:
    return spec.model_dump_json(exclude_none=True)


def dump(spec: Frozen) -> dict[str, Any]:
    return json.loads(_dump_text(spec))


@lru_cache(maxsize=256)
def _dataset_text(spec: DatasetSpec, form: type) -> str:
    """`form`: of its settings as they are registered now, for a plugin may be edited and loaded again."""
    return json.dumps(_without_none({"name": spec.name, **spec.settings}))


def dataset_identity(spec: DatasetSpec) -> dict[str, Any]:
    return json.loads(_dataset_text(spec, DATASETS.form(spec.name)))


def data_digest(spec: DatasetSpec, data_dir: Path, unread: bool) -> str:
    """Of the data themselves. `unread`: those that are not as they must be count as not there; else UserError."""
    try:
        return digest_of(spec.name, spec.settings, data_dir)
    except UserError:
        if unread:
            return NOT_THERE
        raise


def code_of(entry: str, registry: Registry[Any], names: Iterable[str]) -> dict[str, Any]:
    """{entry: name -> hash} of those whose code came in by a plugin; nothing where all are kdbench's own."""
    found = {name: code for name in names if (code := registry.code(name))}
    return {entry: found} if found else {}


def metric_code(spec: DatasetSpec) -> dict[str, Any]:
    """The same of the metric that a data set's settings name."""
    name = str(spec.settings.get("metric"))
    code = METRICS.code.get(name) if name in METRICS else None
    return {"metric_code": {name: code}} if code else {}


def model_identity(spec: ModelSpec) -> dict[str, Any]:
    whole = spec.model_dump(mode="json", exclude={"taught_by", "objective", "start", "transforms"})
    identity = {k: v for k, v in whole.items() if v is not None} | code_of("code", NETS, [spec.model])
    if spec.transforms:
        identity["transforms"] = list(steps_of(spec.transforms))
    if spec.checkpoint is not None:  # what is in the file decides, not where it stands
        identity["checkpoint"] = _file_hash(spec.checkpoint)
    if files := digest_of_net(spec.model, spec.options):
        identity["files"] = files
    return identity


@lru_cache(maxsize=256)
def _file_hash(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
