"""A `transformers` encoder that gives everything a method may ask for, in one forward.

Facts about transformers that this file rests on, each checked by a test: a mask [B, 1, 1, L] is taken as it is, without
a look at its values; attention goes through torch's fused one (`sdpa`); `hidden_states` are what the first layer reads,
and then what each layer gives; the classifier is the last linear layer that is named so.
"""

from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.attention import ATTENTION, AttentionTap
from kdbench.errors import UserError, first_line
from kdbench.method.contract import Inapplicable, Outputs, Task
from kdbench.nets import Net
from kdbench.parts import Tap
from kdbench.text.batches import SUFFIXES
from kdbench.text.extra import quiet_transformers
from kdbench.text.labels import head_fits

GIVEN = {"logits", "embedding", "features", "stem", "classifier", *ATTENTION}
# Where a kind calls something by a name of its own.
OWN_NAMES = {
    "distilbert": {"intermediate_size": "hidden_dim", "hidden_dropout_prob": "dropout",
                   "attention_probs_dropout_prob": "attention_dropout", "hidden_size": "dim",
                   "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"},
}  # fmt: skip


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
            "max_position_embeddings": self.places,
        }
        names = OWN_NAMES.get(kind, {})
        return {names.get(name, name): value for name, value in given.items() if value is not None}


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


def classifier_of(model: nn.Module) -> Any:
    linear = [(name, part) for name, part in model.named_modules() if isinstance(part, nn.Linear)]
    return [part for name, part in linear if name.startswith("classifier")][-1]


def built(
    kind: str, task: Task, shape: Shape, weights: str | None, keep: tuple[int, ...] | None, second: bool
) -> EncoderNet:
    """Raises UserError for settings that do not go together, or weights that can't be had or do not fit."""
    suffix = SUFFIXES[second]
    ids = next((field for field in task.inputs.fields if field.name == f"ids{suffix}"), None)
    if ids is None:
        raise UserError(f"{kind} reads texts{' of a second tokenizer' * second}; this data set gives {task.inputs}")
    if weights is None:
        if keep is not None:
            raise UserError(f"{kind}: keep chooses among the layers of `weights`, and there are none")
        return EncoderNet(from_configuration(kind, task, shape, int(ids.high)), suffix)
    given = shape.entries(kind)
    dropouts = {name for name in given if "dropout" in name}
    if wrong := given.keys() - dropouts:
        raise UserError(f"{kind}: with `weights` their configuration says {sorted(wrong)[0]}; leave it out")
    model = from_weights(kind, task, weights, {name: given[name] for name in dropouts})
    config = model.config
    if config.vocab_size < ids.high:
        what = f"{config.vocab_size} entries, the data set's tokenizer {int(ids.high)}"
        raise UserError(f"{kind}: {weights} has {what}; give the data set `tokenizer: {weights}`")
    if keep is not None:
        keep_layers(model, keep)
    return EncoderNet(model, suffix)


def from_configuration(kind: str, task: Task, shape: Shape, vocabulary: int) -> Any:
    package = quiet_transformers()
    given = {"max_position_embeddings": max(512, task.inputs.shape[0] + 8), **shape.entries(kind)}
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


def from_weights(kind: str, task: Task, weights: str, dropouts: dict[str, float]) -> Any:
    """A folder's net, or one of the hub; on the meta device its shapes alone. Raises UserError."""
    package = quiet_transformers()
    place = str(Path(weights).expanduser()) if Path(weights).expanduser().is_dir() else weights
    try:
        config = package.AutoConfig.from_pretrained(place)
    except Exception as error:
        what = "neither a folder with config.json, nor could it be had from the hub"
        raise UserError(f"{kind}: weights {weights!r}: {what} ({first_line(error)})") from error
    if config.model_type != kind:
        raise UserError(f"{kind}: {weights} holds a {config.model_type}; give `model: {config.model_type}`")
    keeps_head = head_fits(config, task.classes, weights)
    for name, value in {"num_labels": task.num_classes, **dropouts}.items():
        setattr(config, name, value)
    auto = package.AutoModelForSequenceClassification
    if torch.get_default_device().type == "meta":
        return auto.from_config(config, attn_implementation="sdpa")
    model = auto.from_pretrained(
        place,
        config=config,
        attn_implementation="sdpa",
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
    )
    if not keeps_head:  # it is another task's
        nn.init.normal_(classifier_of(model).weight, std=config.initializer_range)
        nn.init.zeros_(classifier_of(model).bias)
    return model


def keep_layers(model: Any, keep: tuple[int, ...]) -> None:
    """Leave the layers `keep` (from 0, in that order) alone. Raises UserError where there are no such layers."""
    count = model.config.num_hidden_layers
    stacks = [part for part in model.modules() if isinstance(part, nn.ModuleList) and len(part) == count]
    if not stacks or max(keep, default=count) >= count:
        raise UserError(f"keep: {list(keep)} are not layers of this net; it has {count * bool(stacks)}, from 0")
    stack = stacks[0]
    chosen = [stack[place] for place in keep]
    del stack[:]
    stack.extend(chosen)
    model.config.num_hidden_layers = len(keep)
