"""A `transformers` encoder that gives everything a method may ask for, in one forward.

Facts about transformers that this file rests on, each checked by a test: a mask [B, 1, 1, L] is taken as it is, without
a look at its values; attention goes through torch's fused one (`sdpa`); `hidden_states` are what the first layer reads,
and then what each layer gives; the classifier is the last linear layer that is named so.
"""

import json
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kdbench.attention import ATTENTION, AttentionTap
from kdbench.errors import UserError, first_line
from kdbench.method.contract import Inapplicable, Outputs, Task
from kdbench.nets import Net
from kdbench.parts import Tap
from kdbench.text.batches import SUFFIXES
from kdbench.text.extra import quiet_transformers
from kdbench.text.labels import Labels
from kdbench.text.pretrained import check_words, classifier_of, from_weights

GIVEN = {"logits", "embedding", "features", "stem", "classifier", *ATTENTION}
# Where a kind calls something by a name of its own.
OWN_NAMES = {
    "albert": {"classifier_dropout": "classifier_dropout_prob"},
    "distilbert": {"intermediate_size": "hidden_dim", "hidden_dropout_prob": "dropout",
                   "attention_probs_dropout_prob": "attention_dropout", "hidden_size": "dim",
                   "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads",
                   "classifier_dropout": "seq_classif_dropout"},
}  # fmt: skip
PLACES_AFTER_PAD = {"camembert", "roberta", "xlm-roberta"}  # the first word stands at place `pad` + 1


@dataclass(frozen=True)
class Shape:
    """What a configuration is made of; None: the kind's own default."""

    layers: int | None
    width: int | None
    heads: int | None
    inner: int | None
    dropout: float | None
    places: int | None

    def entries(self, kind: str) -> dict[str, Any]:
        """Under the names of the kind's configuration."""
        given = {
            "num_hidden_layers": self.layers,
            "hidden_size": self.width,
            "num_attention_heads": self.heads,
            "intermediate_size": self.inner,
            "hidden_dropout_prob": self.dropout,
            "attention_probs_dropout_prob": self.dropout,
            "classifier_dropout": self.dropout,
            "max_position_embeddings": self.places,
        }
        names = OWN_NAMES.get(kind, {})
        return {names.get(name, name): value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class Start:
    """Weights that were learnt before, the layers that are kept of them, and what its head says."""

    weights: str | None
    keep: tuple[int, ...] | None
    labels: Labels
    config: str | None = None


class EncoderNet(Net):
    """A classifier of texts: `ids`, `mask` and perhaps `segments` [B, L]. `suffix`: which tokenizer's."""

    def __init__(self, model: Any, suffix: str = "") -> None:
        super().__init__()
        self.model, self.suffix = model, suffix
        self.head = [classifier_of(model)]  # a list: no submodule
        self._embedding = Tap(self.head)
        self._taps = {name: AttentionTap(read) for name, read in ATTENTION.items()}
        self.reads_segments = (
            getattr(model.config, "type_vocab_size", 0) > 1 and model.config.model_type != "distilbert"
        )
        self.fields = tuple(f"{name}{suffix}" for name in ("ids", "mask", "segments")[: 2 + self.reads_segments])

    def forward(self, inputs: Any, needs: Collection[str] = ("logits",)) -> Outputs:
        """`needs`: which of `GIVEN` to deliver. Raises Inapplicable for the rest."""
        if lacking := sorted(set(needs) - GIVEN):
            raise Inapplicable(f"needs {lacking[0]}; {type(self.model).__name__} gives none")
        mask = inputs[f"mask{self.suffix}"] != 0
        states = bool({"features", "stem"} & set(needs))
        asked = [name for name in ATTENTION if name in needs]
        with ExitStack() as taps:
            for tap in [self._embedding, *(self._taps[name] for name in asked)]:
                taps.enter_context(tap)
            given = self.model(
                input_ids=inputs[f"ids{self.suffix}"],
                attention_mask=mask[:, None, None, :],
                output_hidden_states=states,
                **self._segments(inputs),
            )
        hidden = [x * mask[..., None] for x in given.hidden_states] if states else []
        attention = {name: self._taps[name].all() for name in asked}
        embedding = self._embedding.last()
        return Outputs(
            logits=given.logits,
            embedding=embedding if "embedding" in needs else None,
            features=tuple(hidden[1:]) if "features" in needs else (),
            stem=hidden[0] if "stem" in needs else None,
            mask=mask,
            classifier=(self.head[0].weight, self.head[0].bias) if "classifier" in needs else None,
            attention=attention.get("attention", ()),
            queries=attention.get("queries", ()),
            keys=attention.get("keys", ()),
            values=attention.get("values", ()),
        )

    def _segments(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        found = inputs.get(f"segments{self.suffix}")
        return {"token_type_ids": found} if found is not None and self.reads_segments else {}

    def about(self) -> dict[str, str]:
        return {"config": self.model.config.to_json_string(use_diff=True)}


def built(kind: str, task: Task, shape: Shape, start: Start, second: bool) -> EncoderNet:
    """Raises UserError for settings that do not go together, or weights that can't be had or do not fit."""
    suffix = SUFFIXES[second]
    ids = next((field for field in task.inputs.fields if field.name == f"ids{suffix}"), None)
    if ids is None:
        raise UserError(f"{kind} reads texts{' of a second tokenizer' * second}; this data set gives {task.inputs}")
    if start.weights is None:
        for name in ("keep", "labels"):
            if getattr(start, name) is not None:
                raise UserError(f"{kind}: {name} tells of `weights`, and there are none")
        model = (
            from_configuration(kind, task, shape, int(ids.high))
            if start.config is None
            else from_text(kind, start.config)
        )
    else:
        model = started(kind, task, shape, start, second)
    if (places := places_of(kind, model.config)) < ids.shape[0]:
        raise UserError(f"{kind} has room for texts of {places} places; the data set's have {ids.shape[0]} (`length`)")
    return EncoderNet(model, suffix)


def from_text(kind: str, text: str) -> Any:
    """A net of this configuration, its weights at random. Raises UserError where it is none of the kind."""
    package = quiet_transformers()
    try:
        given = json.loads(text)
    except ValueError as error:
        raise UserError(f"{kind}: config is no JSON: {first_line(error)}") from error
    if given.get("model_type") != kind:
        raise UserError(f"{kind}: config is of a {given.get('model_type')}")
    config = package.CONFIG_MAPPING[kind].from_dict(given)
    return package.AutoModelForSequenceClassification.from_config(config, attn_implementation="sdpa")


def places_of(kind: str, config: Any) -> int:
    """The longest text that it reads."""
    return int(config.max_position_embeddings) - before_words(kind, config.pad_token_id)


def before_words(kind: str, pad: int | None) -> int:
    """Places that no word ever stands at."""
    return (pad or 0) + 1 if kind in PLACES_AFTER_PAD else 0


def started(kind: str, task: Task, shape: Shape, start: Start, second: bool) -> Any:
    """From weights that were learnt before."""
    assert start.weights is not None
    given = shape.entries(kind)
    dropouts = {name for name in given if "dropout" in name}
    if wrong := given.keys() - dropouts:
        raise UserError(f"{kind}: with `weights` their configuration says {sorted(wrong)[0]}; leave it out")
    check_words(kind, task, start.weights, second)
    model = from_weights(kind, task, start.weights, {name: given[name] for name in dropouts}, start.labels)
    size = next(field.high for field in task.inputs.fields if field.name == f"ids{SUFFIXES[second]}")
    if model.config.vocab_size < size:
        what = f"{model.config.vocab_size} entries, the data set's tokenizer {int(size)}"
        raise UserError(f"{kind}: {start.weights} has {what}; give the data set `tokenizer: {start.weights}`")
    if start.keep is not None:
        keep_layers(model, start.keep)
    return model


def from_configuration(kind: str, task: Task, shape: Shape, vocabulary: int) -> Any:
    package = quiet_transformers()
    places = shape.places or max(512, task.inputs.shape[0] + 8)
    given = {**shape.entries(kind), "max_position_embeddings": places + before_words(kind, pad=0)}
    if kind == "albert" and shape.width:
        given["embedding_size"] = min(128, shape.width)
    if kind == "electra" and shape.width:
        given["embedding_size"] = shape.width
    special = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
    config = package.CONFIG_MAPPING[kind](vocab_size=vocabulary, num_labels=task.num_classes, **given, **special)
    heads, width = config.num_attention_heads, config.hidden_size
    if width % heads:
        raise UserError(f"{kind}: {heads} heads do not divide a width of {width}")
    return package.AutoModelForSequenceClassification.from_config(config, attn_implementation="sdpa")


def keep_layers(model: Any, keep: tuple[int, ...]) -> None:
    """Leave the layers `keep` (from 0, in that order) alone. Raises UserError for one that is not there, or twice."""
    if len(set(keep)) < len(keep):
        raise UserError(f"keep: {list(keep)} names a layer twice: both would be one and the same")
    count = model.config.num_hidden_layers
    stacks = [part for part in model.modules() if isinstance(part, nn.ModuleList) and len(part) == count]
    if not stacks or max(keep, default=count) >= count:
        raise UserError(f"keep: {list(keep)} are not layers of this net; it has {count * bool(stacks)}, from 0")
    stack = stacks[0]
    chosen = [stack[place] for place in keep]
    del stack[:]
    stack.extend(chosen)
    model.config.num_hidden_layers = len(keep)
