"""Encoders by name: BERT and its family as teachers and students, from `transformers`.

`{model: bert, layers: 4, width: 256, heads: 4}` is made from its configuration alone; `weights: DIR` (or a name on the
hub) starts from what was learnt before, `keep` from chosen layers of it, as DistilBERT's student does.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from kdbench.digest import digest_of_files
from kdbench.method.contract import Count, Share, Task
from kdbench.nets import Net, register_net

# Those of which `transformers` has attention that can be read and a head for classification.
ENCODERS = ("albert", "bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta")
WEIGHT_FILES = ("config.json", "*.safetensors", "*.bin")

Place = Annotated[int, Field(ge=0)]
Reads = Literal["first", "second"]


def digest(weights: str | None = None, **_: Any) -> str:
    """Of the files of a local folder; what has a name on the hub is told by it."""
    folder = Path(weights or "").expanduser()
    if weights is None or not folder.is_dir():
        return ""
    paths = [path for pattern in WEIGHT_FILES for path in folder.glob(pattern)]
    return digest_of_files({path.name: str(path) for path in paths})


def kept(weights: str | None = None, **_: Any) -> dict[str, str]:
    """Of what has a name on the hub: see `register_net`."""
    if weights is None or Path(weights).expanduser().is_dir():
        return {}
    from kdbench.hub_cache import of_hub

    return of_hub(weights)


def again(about: dict[str, str], **settings: Any) -> dict[str, Any]:
    """Of a saved net: its configuration in the place of the folder that it began with."""
    if settings.get("weights") is None or "config" not in about:
        return settings
    return {"config": about["config"]} | ({"reads": settings["reads"]} if "reads" in settings else {})


def encoder(kind: str) -> Callable[..., Net]:
    """What makes a net of this kind, with its settings."""

    def make(
        task: Task,
        layers: Count | None = None,
        width: Count | None = None,
        heads: Count | None = None,
        inner: Count | None = None,
        dropout: Share | None = None,
        places: Count | None = None,
        weights: str | None = None,
        keep: Annotated[tuple[Place, ...], Field(min_length=1)] | None = None,
        labels: tuple[str, ...] | Literal["new"] | None = None,
        config: str | None = None,
        reads: Reads = "first",
    ) -> Net:
        """`inner`: width of the feed-forward layers (4 `width`). `places`: the longest text. None: the kind's own.

        `labels`: the data set's classes in the order of the head of `weights`; `new`: a new head. `config`: all of its
        configuration as JSON, in the place of what a shape says; random weights.
        """
        from kdbench.text.encoder import Shape, Start, built

        shape = Shape(layers, width, heads, inner if inner or not width else 4 * width, dropout, places)
        return built(kind, task, shape, Start(weights, keep, labels, config), reads == "second")

    return make


for _kind in ENCODERS:
    register_net(_kind, digest=digest, kept=kept, again=again)(encoder(_kind))
