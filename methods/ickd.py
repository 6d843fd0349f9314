"""Inter-channel correlation distillation: which channels of a map go together."""

from typing import Literal

from torch import Tensor, nn

from kdbench import Batch, Method, Outputs, Task, register_method
from kdbench.method.adapters import ConvBN
from kdbench.method.contract import Stage
from kdbench.method.functional import gram, unit
from kdbench.method.stages import pair_stages, same_channels


@register_method("ickd", needs="features", paper="https://arxiv.org/abs/2202.03680", year=2021, family="maps")
class ICKD(Method):
    """||G_s - G_t||_F^2 / (C B), with G = F F^T [C, C] of one picture's map F [C, N], rows unit (Liu et al., eq. 3-4).

    The student's map goes through BN(conv1x1) first, or is taken as it is with `adapter: none`. G does not know the
    grid, so nothing is pooled. `form: code` (default) is the authors' CIFAR-100 code, weight 2.5; `torchdistill`
    divides by B once more.
    """

    def __init__(
        self,
        stage: Stage = -1,
        adapter: Literal["conv", "none"] = "conv",
        form: Literal["code", "torchdistill"] = "code",
    ) -> None:
        super().__init__()
        self.stage, self.kind, self.form = stage, adapter, form
        self.adapter: nn.Module = nn.Identity()

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        [(self.s, self.t)] = pair_stages(student.features, teacher.features, [self.stage])
        s_map, t_map = student.features[self.s], teacher.features[self.t]
        if self.kind == "conv":
            self.adapter = ConvBN(s_map.shape[1], t_map.shape[1])
        else:
            same_channels(s_map, t_map)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        s, t = self.adapter(student.features[self.s]).flatten(2), teacher.features[self.t].flatten(2)
        difference = unit(gram(s)) - unit(gram(t))
        num_pictures, channels = difference.shape[:2]
        loss = difference.square().sum() / (channels * num_pictures)
        return {"ickd": loss / num_pictures if self.form == "torchdistill" else loss}
