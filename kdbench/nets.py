"""Nets of any domain: what the engine trains, and how one is found by its name.

A net comes from a family (timm's models are one, see `vision/nets.py`), or is registered by itself:

    @register_net("mlp")
    class MLP(nn.Module):
        def __init__(self, task: Task, width: int = 32) -> None: ...
        def forward(self, x: Tensor) -> Tensor: ...   # logits [B, K]
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from kdbench.errors import UserError, first_line, unknown
from kdbench.method.contract import Inapplicable, Inputs, Outputs, Task
from kdbench.registry import Registry
from kdbench.seeding import seeded
from kdbench.weights import load_weights

Make = TypeVar("Make", bound=Callable[..., nn.Module])


class Spec(Protocol):
    """What `build_net` reads from a suite's model."""

    model: str
    pretrained: bool
    checkpoint: str | None
    img_size: int | None

    @property
    def options(self) -> dict[str, Any]: ...


class Net(nn.Module):
    """A classifier that gives `Outputs`. `model` is the module inside whose weights are saved and given to the user."""

    model: Any
    structure: list[dict[str, Any]] = []  # noqa: RUF012  (the transforms made of it, and what each decided; never written to)

    def forward(self, inputs: Inputs, needs: Collection[str] = ("logits",)) -> Outputs:
        """`needs`: which of `NEEDS` to deliver; logits always are. Raises Inapplicable for what the net lacks."""
        raise NotImplementedError

    def about(self) -> dict[str, str]:
        """What a user of the bare `model` must know, as the metadata of its file."""
        return {}


class Tap:
    """Notes the input of each of `modules` during `with tap:`, in the order of the forward."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.seen: list[Tensor] = []
        self.open = False
        for module in modules:
            module.register_forward_pre_hook(self._note)

    def _note(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self.open:
            self.seen.append(inputs[0])

    def __enter__(self) -> "Tap":
        self.seen, self.open = [], True
        return self

    def __exit__(self, *_: object) -> None:
        self.open = False

    def all(self) -> tuple[Tensor, ...]:
        seen, self.seen = tuple(self.seen), []
        return seen

    def last(self) -> Tensor:
        return self.all()[-1]


class OutputTap(Tap):
    """Notes the output of each of `modules`."""

    def __init__(self, modules: list[nn.Module]) -> None:
        super().__init__([])
        for module in modules:
            module.register_forward_hook(self._note_output)  # no lambda: a copied net has copied taps

    def _note_output(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._note(module, (output,))


class PlainNet(Net):
    """Any module that gives logits [B, K]: its last linear layer is the classifier, what that reads the embedding.

    `model.feature_modules`, where there is one: the names of the modules that give the feature maps.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        linear: list[nn.Module] = [module for module in model.modules() if isinstance(module, nn.Linear)]
        names = getattr(model, "feature_modules", ())
        known = dict(model.named_modules())
        for name in names:
            if name not in known:
                raise UserError(unknown(f"module of {type(model).__name__}", name, known))
        self.head = linear[-1:]  # a list: no submodule
        self._embedding, self._features = Tap(self.head), OutputTap([known[name] for name in names])

    def forward(self, inputs: Inputs, needs: Collection[str] = ("logits",)) -> Outputs:
        name = type(self.model).__name__
        if lacking := sorted(set(needs) - {"logits", "embedding", "features", "classifier"}):
            raise Inapplicable(f"needs {lacking[0]}; {name} gives none")
        if not self.head and {"embedding", "classifier"} & set(needs):
            raise Inapplicable(f"needs a linear classifier; {name} has no linear layer")
        with ExitStack() as taps:
            taps.enter_context(self._embedding)
            taps.enter_context(self._features)
            logits = self.model(inputs)
        features, seen = self._features.all(), self._embedding.all()
        if "features" in needs and not features:
            raise Inapplicable(f"needs feature maps; {name} names none (`feature_modules`)")
        return Outputs(
            logits=logits,
            embedding=seen[-1] if "embedding" in needs else None,
            features=features if "features" in needs else (),
            classifier=self._classifier() if "classifier" in needs else None,
        )

    def _classifier(self) -> tuple[Tensor, Tensor]:
        head: Any = self.head[0]
        return head.weight, head.bias if head.bias is not None else head.weight.new_zeros(len(head.weight))


class Family(Protocol):
    """Many nets under names of their own."""

    def names(self) -> Collection[str]: ...

    def build(self, spec: Spec, task: Task) -> Net:
        """In fp32 on torch's default device, initialised from torch's generator. May raise anything."""
        ...


NETS: Registry[Any] = Registry("model")
FAMILIES: dict[str, str] = {}  # name -> "module:attribute", imported when a net is asked for: timm takes seconds


def register_net(name: str, *, digest: Callable[..., str] | None = None) -> Callable[[Make], Make]:
    """Decorator for a class or function `(task: Task, **settings) -> nn.Module` that gives logits, or for a `Net`.

    `digest` takes the settings and gives a text that tells what the net reads from files (its first weights) from what
    it would read of others; it becomes part of every key. "": the settings say it all.
    """

    def register(make: Make) -> Make:
        make.digest = digest  # type: ignore[attr-defined]
        NETS.add(name, make, make.__init__ if isinstance(make, type) else make)  # type: ignore[misc]
        known_models.cache_clear()
        return make

    return register


def families() -> Iterator[Family]:
    for place in FAMILIES.values():
        module, attribute = place.split(":")
        yield getattr(import_module(module), attribute)


def digest_of_net(name: str, options: dict[str, Any]) -> str:
    """What tells the files that a registered net starts from; "" where there are none."""
    digest = getattr(NETS[name], "digest", None) if name in NETS else None
    return digest(**options) if digest is not None else ""


@lru_cache
def known_models() -> frozenset[str]:
    """Every name that can be built."""
    return frozenset(NETS).union(*(family.names() for family in families()))


def build_net(spec: Spec, task: Task, *seed: object, expected: str | None = None) -> Net:
    """The net of `spec` for the task, in fp32 on torch's default device, initialised from `seed`.

    `expected`: the SHA-256 of its checkpoint, where that is known. Raises UserError when it is unknown or cannot be
    built, or its weights cannot be had, are others or do not fit.
    """
    try:
        with seeded(*seed):
            net = _build(spec, task)
    except UserError:
        raise
    except Exception as error:
        hint = "; without a network give its weights as `checkpoint:`" if spec.pretrained else ""
        raise UserError(f"model {spec.model!r} can't be built: {first_line(error)}{hint}") from error
    if spec.checkpoint:
        digest = load_weights(net.model, Path(spec.checkpoint))
        if expected not in (None, digest):
            raise UserError(f"checkpoint {spec.checkpoint} is another file than when the run was planned; plan it anew")
    return net


def _build(spec: Spec, task: Task) -> Net:
    if spec.model in NETS:
        made = NETS[spec.model](task, **spec.options)
        return made if isinstance(made, Net) else PlainNet(made)
    for family in families():
        if spec.model.split(".")[0] in family.names():
            return family.build(spec, task)
    raise UserError(unknown("model", spec.model, known_models()))
