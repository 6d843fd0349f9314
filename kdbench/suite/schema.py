"""The JSON schema of suite files, for editors."""

from typing import Any

from kdbench.method.register import METHODS
from kdbench.method.transform import TRANSFORMS
from kdbench.suite.controls import CONTROLS
from kdbench.suite.plugins import load_methods
from kdbench.suite.recipes import recipes
from kdbench.suite.spec import Common, Ramp, SuiteFile


def schema() -> dict[str, Any]:
    """JSON schema of a suite file, with every registered method's settings."""
    load_methods()
    root = SuiteFile.model_json_schema()
    definitions = root.setdefault("$defs", {})
    ramp, terms = Ramp.model_json_schema(), {}
    for name in METHODS:
        settings = METHODS.schema(name)
        definitions |= settings.pop("$defs", {})
        own = {**Common.model_json_schema()["properties"], **settings.get("properties", {})}
        numeric = ("number", "integer")
        ramped = {k: {"anyOf": [v, ramp]} if v.get("type") in numeric else v for k, v in own.items()}
        number = {"type": "number", "exclusiveMinimum": 0}
        terms[name] = {"anyOf": [number, ramp, {**settings, "properties": ramped}]}
    each = {name: TRANSFORMS.schema(name) for name in TRANSFORMS}
    named = {
        "type": "object",
        "properties": each,
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
    }
    steps = {"type": "array", "minItems": 1, "items": {"anyOf": [{"enum": list(TRANSFORMS)}, named]}}
    teacher = {"enum": list(CONTROLS)}
    options = {"seeds": root["properties"]["seeds"], "teacher": teacher, "then": steps}  # a row's own
    rest = {"additionalProperties": False, "minProperties": 1}
    plain_row = {"type": "object", "properties": {**terms, **options}, **rest}
    phase = {**plain_row, "properties": {"epochs": {"type": "integer", "minimum": 1}, **terms}}
    phases = {"phases": {"type": "array", "items": phase, "minItems": 1}}
    phased = {"type": "object", "properties": {**phases, **options}, "required": ["phases"]}
    row = {"anyOf": [plain_row, phased]}
    same_row = {"$ref": "#/properties/methods/additionalProperties/anyOf/0"}
    choices = {"by_pair": {"type": "object", "additionalProperties": same_row, "minProperties": 1}}
    by_pair = {
        "type": "object",
        "properties": {**choices, **options},
        "required": ["by_pair"],
        "additionalProperties": False,
    }
    rows = {"anyOf": [row, by_pair]}
    root["properties"]["methods"] = {"type": "object", "additionalProperties": rows, "minProperties": 1}
    definitions["TeacherSpec"]["properties"]["objective"] = same_row
    for name, short in (("ModelSpec", "model"), ("TeacherSpec", "model"), ("DatasetSpec", "name")):
        full = {**definitions[name], "required": [short], "additionalProperties": True}
        definitions[name] = {"anyOf": [{"type": "string"}, full]}
    definitions["Schedule"] = {"anyOf": [{"enum": ["cosine", "constant", "step"]}, *_schedules(definitions)]}
    definitions["Train"]["properties"]["recipe"] = {"anyOf": [{"enum": list(recipes())}, {"type": "string"}]}
    train = dict(definitions["Train"]["properties"])
    root["properties"]["teacher_train"] = {
        "type": "object",
        "properties": {**train, "seed": {"anyOf": [{"type": "integer"}, {"const": "per_seed"}]}},
        "additionalProperties": False,
    }
    root["required"] = [] if "extends" in root["properties"] else root.get("required", [])
    return root


def _schedules(definitions: dict[str, Any]) -> list[dict[str, Any]]:
    """A table of our own, and one that begins with `timm: NAME`."""
    own = definitions["Schedule"]
    own["properties"] = {name: value for name, value in own["properties"].items() if name != "timm"}
    timm = definitions.pop("TimmSchedule")
    properties = dict(timm["properties"])
    return [own, {**timm, "properties": {"timm": properties.pop("name"), **properties}, "required": ["timm"]}]
