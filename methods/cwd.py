"""Channel-wise distillation: where each channel looks, as a distribution over positions."""

from torch import Tensor, nn

from kdbench import Batch, Method, Outputs, Task, register_method
from kdbench.method.adapters import match_channels
from kdbench.method.contract import Positive, Stage
from kdbench.method.functional import pool_to_smaller, soft_kl
from kdbench.method.stages import needs_places, pair_stages


@register_method("cwd", needs="features", paper="https://arxiv.org/abs/2011.13256", year=2021, family="maps")
class ChannelWise(Method):
    """T^2 * mean over B and C of KL(softmax(t_c/T) || softmax(s_c/T)), softmax over the positions (Shu et al., eq. 4).

    The student's map goes through a 1x1 convolution where channels differ; of maps on different grids the larger is
    average-pooled. The authors report segmentation only, with T = 4 and weight 50 on maps.
    """

    def __init__(self, temperature: Positive = 4.0, stage: Stage = -1) -> None:
        super().__init__()
        self.temperature, self.stage = temperature, stage
        self.adapter: nn.Module = nn.Identity()

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        [(self.s, self.t)] = pairs = pair_stages(student.features, teacher.features, [self.stage])
        needs_places(student.features, teacher.features, pairs)
        self.adapter = match_channels(student.features[self.s], teacher.features[self.t])

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        s, t = pool_to_smaller(student.features[self.s], teacher.features[self.t])
        divergence = soft_kl(self.adapter(s).flatten(2), t.flatten(2), self.temperature)
        return {"cwd": divergence.mean() * self.temperature**2}
