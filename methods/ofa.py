"""OFA-KD: students of another kind learn in the space of logits, from every stage."""

import math

from torch import Tensor, nn

from kdbench import Batch, Method, Outputs, Task, register_method
from kdbench.method.contract import NonNegative, Positive, Stage
from kdbench.method.functional import is_class
from kdbench.method.stages import pair_stages


@register_method(
    "ofa",
    needs="logits",
    student_needs=("logits", "features"),
    paper="https://arxiv.org/abs/2310.19444",
    year=2023,
    family="logits",
)
class OFA(Method):
    """mean_b sum_k -((p_k + m_k)^eps - m_k) log q_k, m the one-hot label (Hao et al., section 3.3), without T^2.

    eps > 1 raises the weight of the label; eps = 1 is cross-entropy with the teacher. The loss is taken on the
    student's logits and, times `branches`, on the logits that a trained projector makes of each of `stages`
    (stages: []: the student's logits alone). Our projectors are separable convolutions that halve the grid, a mean
    and a linear layer, for transformers too. Weight 1 beside 1 CE; eps 1 to 1.5 per pair.
    The label of a mixed picture is the class of its larger share, as in the authors' code.
    """

    def __init__(
        self,
        eps: Positive = 1.0,
        temperature: Positive = 1.0,
        stages: tuple[Stage, ...] = (0.25, 0.5, 0.75, 1.0),
        branches: NonNegative = 1.0,
    ) -> None:
        super().__init__()
        self.eps, self.temperature, self.stages, self.branches = eps, temperature, stages, branches
        self.places: list[int] = []
        self.projectors = nn.ModuleList()

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        if self.stages:
            pairs = pair_stages(student.features, student.features, self.stages)
            self.places = [place for place, _ in pairs]
            self.projectors.extend(projector(student.features[place], task.num_classes) for place in self.places)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        t, y = teacher.logits, batch.target
        losses = {"ofa": self.enhanced(student.logits, t, y)}
        for place, project in zip(self.places, self.projectors, strict=True):
            branch = self.branches * self.enhanced(project(student.features[place]), t, y)
            losses["ofa_branches"] = losses.get("ofa_branches", 0) + branch
        return losses

    def enhanced(self, s: Tensor, t: Tensor, target: Tensor) -> Tensor:
        hot = is_class(target, t.shape[-1]).to(t.dtype)
        goal = ((t / self.temperature).softmax(-1) + hot) ** self.eps - hot
        return -(goal * (s / self.temperature).log_softmax(-1)).sum(-1).mean()


def projector(maps: Tensor, num_classes: int) -> nn.Sequential:
    """[B, C, H, W] -> [B, K]: the grid is halved until it is 4 x 4 or less, then the mean and a linear layer."""
    channels, side = maps.shape[1], min(maps.shape[-2:])
    layers: list[nn.Module] = []
    for _ in range(max(math.ceil(math.log2(side / 4)), 0)):
        wider = min(2 * channels, max(channels, 512))
        layers += [
            nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels, bias=False),
            nn.Conv2d(channels, wider, 1, bias=False),
            nn.BatchNorm2d(wider),
            nn.ReLU(),
        ]
        channels = wider
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))
