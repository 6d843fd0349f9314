"""The student as it is delivered: one and the same thing is evaluated, profiled, saved and exported."""

from collections.abc import Collection
from dataclasses import replace

from torch import Tensor, nn

from kdbench.method.contract import Inputs, InputSpec, Method, Outputs
from kdbench.nets import Net
from kdbench.train.objective import Objective, own_needs


class Delivered(nn.Module):
    """A student as it is used: its net, and the layers that its objective leaves in it (SimKD)."""

    def __init__(self, net: Net, objective: Objective | None = None) -> None:
        super().__init__()
        self.net = net
        self.method: Method | None = objective.inference() if objective is not None else None

    def forward(self, inputs: Inputs, needs: Collection[str] = ("logits",)) -> Outputs:
        if self.method is None:
            return self.net(inputs, needs)
        outputs = self.net(inputs, own_needs({*needs, *self.method.student_needs}))
        logits = self.method.infer(outputs)
        if not isinstance(logits, Tensor) or logits.shape != outputs.logits.shape:
            given = list(logits.shape) if isinstance(logits, Tensor) else logits
            raise TypeError(f"infer gave {given}, not logits of shape {list(outputs.logits.shape)}")
        return replace(outputs, logits=logits)

    def weights(self) -> dict[str, Tensor]:
        """The net's weights under its model's own names; what stays of the method as `method.*`."""
        weights = dict(self.net.model.state_dict())
        if self.method is not None:
            weights |= {f"method.{name}": value for name, value in self.method.state_dict().items()}
        return weights


class Student(nn.Module):
    """A delivered student that gives nothing but its logits [B, K], for whoever ships it."""

    def __init__(self, delivered: Delivered, inputs: InputSpec) -> None:
        super().__init__()
        self.delivered, self.inputs = delivered, inputs

    def forward(self, inputs: Inputs) -> Tensor:
        return self.delivered(inputs).logits
