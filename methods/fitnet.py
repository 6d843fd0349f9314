"""FitNets: the student's hint layer regresses the teacher's guided layer."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Method, Outputs, Task, register_method
from kdbench.method.adapters import Regressor
from kdbench.method.contract import Stage
from kdbench.method.stages import pair_stages, same_channels


@register_method("fitnet", needs="features", paper="https://arxiv.org/abs/1412.6550", year=2015, family="maps")
class FitNet(Method):
    """MSE(r(s_i), t_j), the mean over all entries (Romero et al., eq. 3), r a trained regressor.

    r = ReLU(BN(conv)), as in the CRD benchmark; `adapter: none` compares maps of equal shape directly. The default
    stage is the benchmark's hint layer, the last but one. Weight there: 100.
    """

    def __init__(self, stage: Stage = -2, adapter: Literal["regressor", "none"] = "regressor") -> None:
        super().__init__()
        self.stage, self.kind = stage, adapter
        self.adapter: nn.Module = nn.Identity()

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        [(self.s, self.t)] = pair_stages(student.features, teacher.features, [self.stage])
        maps = student.features[self.s], teacher.features[self.t]
        if self.kind == "regressor":
            self.adapter = Regressor(*maps)
        else:
            same_channels(*maps)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"fitnet": F.mse_loss(self.adapter(student.features[self.s]), teacher.features[self.t])}
