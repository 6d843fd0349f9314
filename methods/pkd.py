"""PKD: maps compared after each channel is standardised, so that only the correlation counts."""

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Method, Outputs, Task, register_method
from kdbench.method.adapters import match_channels
from kdbench.method.contract import Stage
from kdbench.method.functional import pool_to_smaller
from kdbench.method.stages import pair_stages


@register_method("pkd", needs="features", paper="https://arxiv.org/abs/2207.02039", year=2022, family="maps")
class PKD(Method):
    """MSE(z(s), z(t)) / 2 = 1 - the mean correlation of the channels (Cao et al., eq. 3-4).

    z standardises each channel over B*N. The student's map goes through a 1x1 convolution where channels differ; of
    maps on different grids the larger is average-pooled. The authors report detection only, with weight 6 to 10.
    """

    def __init__(self, stage: Stage = -1) -> None:
        super().__init__()
        self.stage = stage
        self.adapter: nn.Module = nn.Identity()

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        [(self.s, self.t)] = pair_stages(student.features, teacher.features, [self.stage])
        self.adapter = match_channels(student.features[self.s], teacher.features[self.t])

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        s, t = pool_to_smaller(student.features[self.s], teacher.features[self.t])
        return {"pkd": F.mse_loss(channel_scores(self.adapter(s)), channel_scores(t)) / 2}


def channel_scores(maps: Tensor) -> Tensor:
    """[B, C, H, W] with every channel at mean 0 and sample variance 1 over B, H and W; a constant one is 0."""
    centred = maps - maps.mean((0, 2, 3), keepdim=True)
    count = maps.numel() // maps.shape[1]
    variance = centred.square().sum((0, 2, 3), keepdim=True) / max(count - 1, 1)
    return centred / (variance.clamp(min=1e-12).sqrt() + 1e-6)
