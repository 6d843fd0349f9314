"""A timm model that gives everything a method may ask for, in one forward.

Facts about timm that this file rests on, each checked by a test over diverse models: `forward_intermediates` followed
by `forward_head` reproduces `model(x)` to the bit; the classifier's input is the embedding (`num_features` is not its
width everywhere); with drop-out, `forward_head` may be called only once per forward.
"""

import json
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from functools import lru_cache
from typing import Any

import timm
import torch
from timm.data import resolve_data_config
from torch import Tensor, nn

from kdbench.attention import ATTENTION, AttentionTap
from kdbench.errors import UserError
from kdbench.method.contract import Inapplicable, Outputs, Task
from kdbench.nets import Net, Spec
from kdbench.parts import OutputTap, Tap, modules_named
from kdbench.vision import cifar as _cifar  # noqa: F401  (registers them into timm)
from kdbench.vision.pretrained import kept_weights, must_be_had
from kdbench.vision.resize import resized
from kdbench.vision.taps import as_maps, last_norms, over_whole_pictures, tap_preacts, tap_stem


class TimmNet(Net):
    """A classifier on pictures [B, 3, H, W] in 0..1.

    Normalisation belongs to the net (the mean and std of its `pretrained_cfg`), so teacher and student may differ.
    `size` is the side that pictures are resized to first, None to take them as they come.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, size: int | None = None) -> None:
        super().__init__()
        self.model = model
        self.size = size
        cfg = getattr(model, "pretrained_cfg", {}) or {}
        self.register_buffer("mean", _channels(cfg.get("mean", (0.5, 0.5, 0.5))), persistent=False)
        self.register_buffer("std", _channels(cfg.get("std", (0.5, 0.5, 0.5))), persistent=False)
        if not hasattr(model, "get_classifier"):
            raise TypeError(f"{type(model).__name__} has no get_classifier() to give its last layer; see docs/nets.md")
        head = self.model.get_classifier()
        self.head = list(head) if isinstance(head, tuple | list | nn.ModuleList) else [head]  # a list: no submodule
        # timm's distilled models give a pair: the class token's head and the distillation token's.
        self.token_head = self.head[1:] if isinstance(head, tuple) and len(head) == 2 else []
        self._taps: dict[str, Tap] = {}
        self._features: Tap | None = None  # of the modules that a suite names instead of timm's
        self._embedding = Tap([self.head[0]])

    def normalise_with(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean.copy_(_channels(mean))
        self.std.copy_(_channels(std))

    def tap_features(self, names: Sequence[str]) -> None:
        self._features = OutputTap(modules_named(self.model, names))

    def forward(self, images: Any, needs: Collection[str] = ("logits",)) -> Outputs:
        """`needs`: which of `NEEDS` to deliver; logits always are. Raises Inapplicable for the rest."""
        x = self.normalise(images)
        features: list[Tensor] = []
        with ExitStack() as taps:
            for tap in [self._embedding] + [self.tap(need) for need in self.tapped(needs)]:
                taps.enter_context(tap)
            if "features" in needs and self._features is not None:
                with self._features:
                    x = self.model.forward_features(x)
                features = list(as_maps(self._features.all()))
            elif "features" in needs:
                x, features = self._intermediates(x)
            else:
                x = self.model.forward_features(x)
            logits = self.model.forward_head(x)
        logits = logits[0] if isinstance(logits, tuple) else logits
        seen = self._embedding.all()  # taken out also where nobody asks: a net must not hold on to a forward
        embedding = seen[-1].flatten(1) if "embedding" in needs else None
        if isinstance(self.head[0], nn.Identity):  # without classes the model gives what a classifier would read
            embedding, logits = logits.flatten(1) if "embedding" in needs else None, logits.flatten(1)[:, :0]
        return Outputs(
            logits=logits,
            embedding=embedding,
            features=tuple(features),
            preacts=self.tap("preacts").all() if "preacts" in needs else (),
            attention=self.attention("attention", needs, images),
            queries=self.attention("queries", needs, images),
            keys=self.attention("keys", needs, images),
            values=self.attention("values", needs, images),
            token_logits=self.tap("token_logits").last() if "token_logits" in self.tapped(needs) else None,
            norms=last_norms(self.model) if "norms" in needs else (),
            classifier=self.classifier() if "classifier" in needs else None,
            pooled_map=self.pooled_map(x) if "pooled_map" in needs else None,
            stem=self.stem() if "stem" in needs else None,
        )

    def normalise(self, images: Tensor) -> Tensor:
        return (resized(images, self.size) - self.mean) / self.std

    def about(self) -> dict[str, str]:
        return {"mean": json.dumps(self.mean.flatten().tolist()), "std": json.dumps(self.std.flatten().tolist())}

    def classifier(self) -> tuple[Tensor, Tensor]:
        """Weight [K, D] and bias [K] of the last layer. Raises Inapplicable when it is no linear map."""
        head = self.head[0]
        if len(self.head) > 1:
            raise Inapplicable(f"needs one linear classifier; {type(self.model).__name__} has {len(self.head)}")
        if not isinstance(head, nn.Linear | nn.Conv2d):
            raise Inapplicable(f"needs a linear classifier; {type(self.model).__name__} ends in {type(head).__name__}")
        weight = head.weight.flatten(1)
        return weight, head.bias if head.bias is not None else weight.new_zeros(len(weight))

    def _intermediates(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        if not hasattr(self.model, "forward_intermediates"):
            raise Inapplicable(f"needs feature maps; {type(self.model).__name__} gives none")
        return self.model.forward_intermediates(x, output_fmt="NCHW")

    def pooled_map(self, x: Tensor) -> Tensor:
        """What `forward_head` takes, as a map [B, D, H, W]. Raises Inapplicable for tokens."""
        if x.ndim != 4:
            raise Inapplicable(f"needs a map before the pooling; {type(self.model).__name__} gives tokens")
        return x.permute(0, 3, 1, 2) if getattr(self.model, "output_fmt", "NCHW") == "NHWC" else x

    def stem(self) -> Tensor:
        """What the first layer read. Raises Inapplicable where that is no sequence."""
        x = self.tap("stem").last()
        if x.ndim != 3:
            raise Inapplicable(f"needs layers that read sequences; {type(self.model).__name__}'s read maps")
        return x

    def attention(self, need: str, needs: Collection[str], images: Tensor) -> tuple[Tensor, ...]:
        """One of `ATTENTION`, of every layer; nothing where it is not needed."""
        if need not in needs:
            return ()  # before the number of pictures is read: an exported net takes any
        return over_whole_pictures(self.tap(need).all(), len(images), type(self.model).__name__)

    def tapped(self, needs: Collection[str]) -> list[str]:
        """Which of `needs` are read by a tap. A net without a head of its own for a token has no `token_logits`."""
        known = ("preacts", "stem", *ATTENTION, *(("token_logits",) if self.token_head else ()))
        return [need for need in known if need in needs]

    def tap(self, need: str) -> Tap:
        """The tap that collects `need`, made on first use."""
        if need not in self._taps:
            if need == "preacts":
                self._taps[need] = tap_preacts(self.model)
            elif need == "stem":
                self._taps[need] = tap_stem(self.model)
            elif need in ATTENTION:
                self._taps[need] = AttentionTap(ATTENTION[need])
            else:
                self._taps[need] = OutputTap([self.token_head[0]])
        return self._taps[need]


def _channels(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device="cpu").view(1, -1, 1, 1)


class Timm:
    """Every model that timm can build, the literature's CIFAR nets included."""

    @staticmethod
    @lru_cache
    def names() -> frozenset[str]:
        return frozenset(timm.list_models())

    def build(self, spec: Spec, task: Task) -> Net:
        options, side = dict(spec.options), task.inputs.shape[-1]
        if spec.pretrained and "pretrained_cfg_overlay" not in options:
            must_be_had(spec.model)
        cfg = timm.models.get_pretrained_cfg(spec.model)
        wanted = spec.img_size or side
        if cfg is not None and cfg.fixed_input_size and wanted != cfg.input_size[-1]:
            options.setdefault("img_size", wanted)  # a net that is made for one size; others take any
        model = timm.create_model(spec.model, pretrained=spec.pretrained, num_classes=task.num_classes, **options)
        return TimmNet(model, wanted if wanted != side else None)

    def begins_with(self, spec: Spec) -> dict[str, str]:
        return {} if "pretrained_cfg_overlay" in spec.options else kept_weights(spec.model)

    def own_crop(self, model: str, side: int) -> dict[str, Any] | None:
        """Of its `pretrained_cfg`, as `timm.data.resolve_data_config`: a data set's `test_crop`.

        Where `side` is the cfg's `test_input_size` and not the size it was trained at, its `test_crop_pct` counts.
        """
        cfg = timm.models.get_pretrained_cfg(model)
        if cfg is None or not cfg.has_weights:  # then what it says are timm's defaults
            return None
        tested = cfg.test_input_size is not None and (cfg.input_size[-1] != side == cfg.test_input_size[-1])
        found = resolve_data_config(pretrained_cfg=cfg.to_dict(), use_test_size=tested)
        if found["crop_mode"] not in ("center", "squash"):
            raise UserError(
                f"test_crop: {model} is judged with borders ({found['crop_mode']}), which is not known here"
            )
        mode = {"mode": "squash"} if found["crop_mode"] == "squash" else {}
        return {"share": float(found["crop_pct"]), "interpolation": found["interpolation"], **mode}


FAMILY = Timm()
