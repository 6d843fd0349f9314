"""Factor transfer: a paraphraser condenses the teacher's maps, a translator learns to speak the same way."""

from itertools import pairwise
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdbench import Batch, Method, Outputs, Task, register_method
from kdbench.method.adapters import BatchNorm
from kdbench.method.contract import Count, EpochOf, Positive, Stage
from kdbench.method.functional import pool_to_smaller, unit
from kdbench.method.stages import needs_places, pair_stages, same_channels

Power = Annotated[float, Field(ge=1, allow_inf_nan=False)]


@register_method("ft", needs="features", paper="https://arxiv.org/abs/1802.04977", year=2018, family="maps")
class FactorTransfer(Method):
    """mean |a(F_s) - a(F_t)|^p2 of the factors F_t = paraphraser(t), F_s = translator(s) (Kim et al., eq. 3).

    `form: code` (default, the published tables'): a(F) = unit(mean_c |F|^p1) over the N positions; `paper`: the whole
    factor, flattened and unit. The paraphraser is the encoder of an autoencoder of the teacher's maps (eq. 1), of
    `rate` times its channels, trained `paraphraser_epochs` before the student and then frozen. `factors: maps` takes
    the maps themselves as factors. Weight in the CRD table: 200; `paraphraser_lr` 0.05 where vgg8 is the student. Its
    decoder is a transposed convolution there, here a convolution of the same shape: another start, the same functions.
    """

    def __init__(
        self,
        p1: Power = 2.0,
        p2: Power = 1.0,
        stage: Stage = -1,
        form: Literal["code", "paper"] = "code",
        factors: Literal["trained", "maps"] = "trained",
        rate: Positive = 0.5,
        paraphraser_epochs: Count = 30,
        paraphraser_lr: Positive = 0.01,
    ) -> None:
        super().__init__()
        self.p1, self.p2, self.stage, self.form, self.factors, self.share = p1, p2, stage, form, factors, rate
        self.epochs, self.lr = paraphraser_epochs, paraphraser_lr
        self.paraphraser: nn.Module = nn.Identity()
        self.translator: nn.Module = nn.Identity()
        self.decoder: nn.Module = nn.Identity()

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        [(self.s, self.t)] = pairs = pair_stages(student.features, teacher.features, [self.stage])
        if self.form == "code":
            needs_places(student.features, teacher.features, pairs)
        s_map, t_map = student.features[self.s], teacher.features[self.t]
        if self.factors == "trained":
            channels = t_map.shape[1]
            width = max(int(channels * self.share), 1)
            self.paraphraser = convolutions(channels, channels, width, width).requires_grad_(False)
            self.decoder = convolutions(width, width, channels, channels).requires_grad_(False)
            self.translator = convolutions(s_map.shape[1], s_map.shape[1], width, width, norm=True)
        elif self.form == "paper":
            same_channels(s_map, t_map)

    def prepare(self, epoch_of: EpochOf) -> None:
        """Train the autoencoder on the teacher's maps: mean square error, SGD as in the CRD benchmark."""
        if self.factors == "maps":
            return
        autoencoder = nn.Sequential(self.paraphraser, self.decoder).requires_grad_(True)
        optimizer = torch.optim.SGD(autoencoder.parameters(), lr=self.lr, momentum=0.9, weight_decay=5e-4)
        for epoch in range(self.epochs):
            for teacher, _ in epoch_of(epoch):
                optimizer.zero_grad()
                maps = teacher.features[self.t]
                with torch.enable_grad():
                    F.mse_loss(autoencoder(maps), maps).backward()
                optimizer.step()
        optimizer.zero_grad()
        autoencoder.requires_grad_(False)

    def normalise(self, factor: Tensor) -> Tensor:  # [B, C, H, W] -> [B, N], or [B, C*N] in the paper's form
        return unit(factor.flatten(1) if self.form == "paper" else factor.abs().pow(self.p1).mean(1).flatten(1))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            t_factor = self.paraphraser(teacher.features[self.t])
        s_factor, t_factor = pool_to_smaller(self.translator(student.features[self.s]), t_factor)
        difference = self.normalise(s_factor) - self.normalise(t_factor)
        return {"ft": difference.abs().pow(self.p2).mean()}


def convolutions(*channels: int, norm: bool = False) -> nn.Sequential:
    """3x3 convolutions from each number of channels to the next, with BN if asked for, and leaky ReLU of slope 0.1."""
    layers: list[nn.Module] = []
    for i, o in pairwise(channels):
        layers += [nn.Conv2d(i, o, 3, padding=1), BatchNorm(o) if norm else nn.Identity(), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)
