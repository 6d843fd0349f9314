"""WKD-L: the Wasserstein distance of the predictions, where mass moves cheaply between classes that are alike."""

from collections.abc import Iterable

import torch
from torch import Tensor

from kdbench import Batch, Method, Outputs, Task, register_method
from kdbench.method.contract import Count, EpochOf, NonNegative, Positive, Share, one_label
from kdbench.method.functional import cosine_decay, gram, is_class

PAPER = "https://arxiv.org/abs/2412.08139"


@register_method("wkd_l", needs="logits", paper=PAPER, year=2024, family="logits")
class WKDL(Method):
    """mean_b [-p_y log q_y + `gamma` W(p', q')], p', q': softmaxes at T of the other classes (Lv et al.).

    W: `iterations` of Sinkhorn at `entropy`, cost c_ij = 1 - exp(-`sharpness` (1 - CKA_ij)), CKA_ij linear between the
    teacher's logits for the pictures of class i and of class j, the m-th of i beside the m-th of j (as augmented in
    one pass; the authors': without augmentation). gamma falls by a cosine from `decay_from` on. Beside 1 CE, weight 1;
    (gamma, T): resnet32x4-resnet8x4 (800, 8), wrn_40_2-shufflenetv1 (200, 6), both with `wkd_l_maps`; ImageNet (30, 2).
    """

    cost: Tensor  # [K, K]; until `prepare` all classes are equally unlike

    def __init__(
        self,
        gamma: NonNegative = 800.0,
        temperature: Positive = 8.0,
        entropy: Positive = 0.05,
        iterations: Count = 10,
        sharpness: NonNegative = 1.0,
        decay_from: Share = 150 / 240,
    ) -> None:
        super().__init__()
        self.gamma, self.temperature, self.entropy, self.iterations = gamma, temperature, entropy, iterations
        self.sharpness, self.decay_from = sharpness, decay_from

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        one_label(task, "takes the target out of both softmaxes")
        self.register_buffer("cost", self.cost_of(torch.eye(task.num_classes)))

    def prepare(self, epoch_of: EpochOf) -> None:
        seen = ((self.samples(t), batch.target, batch.index) for t, batch in epoch_of(0))
        self.cost = self.cost_of(linear_cka(by_class(seen, len(self.cost)))).to(self.cost)

    def samples(self, teacher: Outputs) -> Tensor:
        """What classes are compared by, [B, samples of a picture, D]."""
        return teacher.logits[:, None]

    def cost_of(self, similarity: Tensor) -> Tensor:
        return 1 - torch.exp(-self.sharpness * (1 - similarity))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        hot = is_class(batch.target, student.logits.shape[1])
        own = -(teacher.logits.softmax(-1) * student.logits.log_softmax(-1) * hot).sum(-1)
        q, p = ((x.logits / self.temperature).masked_fill(hot, LOWEST).softmax(-1) for x in (student, teacher))
        moved = transport(q, p, self.cost, hot, self.entropy, self.iterations)
        scale = self.gamma * cosine_decay(batch.progress, self.decay_from)
        return {"wkd_l_target": own.mean(), "wkd_l_others": scale * moved.mean()}


LOWEST = -1e30  # of a masked logit: a probability of exactly 0, also where there is no other class


@register_method("wkd_l_maps", needs=("logits", "features"), student_needs="logits", paper=PAPER, year=2024,
                 family="logits")  # fmt: skip
class WKDLMaps(WKDL):
    """As WKD-L, with the CKA between the teacher's last maps, every position a sample (the authors' on CIFAR-100).

    Preparing keeps the last maps of all training pictures: 3.3 GB for a resnet32x4 on CIFAR-100.
    """

    def samples(self, teacher: Outputs) -> Tensor:
        return teacher.features[-1].flatten(2).transpose(1, 2)


def by_class(seen: Iterable[tuple[Tensor, Tensor, Tensor]], num_classes: int) -> Tensor:
    """(samples [B, N, D], class [B], index [B]) -> [K, n N, D]: the first n pictures of each class by their index.

    n is the number of pictures in the smallest class; a class without any is all 0.
    """
    samples, target, index = (torch.cat(parts) for parts in zip(*seen, strict=True))
    order = index.argsort()
    order = order[target[order].argsort(stable=True)]
    count = target.bincount(minlength=num_classes)
    first, smallest = count.cumsum(0) - count, int(count[count > 0].min())
    places = (first[:, None] + torch.arange(smallest, device=first.device)).clamp(max=len(target) - 1)
    found = samples[order[places]] * (count > 0)[:, None, None, None]
    return found.flatten(1, 2)


def linear_cka(x: Tensor) -> Tensor:
    """|X_i^T X_j|^2 / (|X_i^T X_i| |X_j^T X_j|) of the centred samples, [K, n, D] -> [K, K]; 0 for a constant class."""
    x = x - x.mean(1, keepdim=True)
    if x.shape[1] <= 2 * x.shape[2]:
        hsic = gram(gram(x).flatten(1))  # the same sum over n x n products
    else:
        hsic = torch.stack([(one.T @ x).square().sum((1, 2)) for one in x])
    size = hsic.diagonal().sqrt()
    return hsic / (size[:, None] * size).clamp(min=torch.finfo(x.dtype).tiny)


def transport(q: Tensor, p: Tensor, cost: Tensor, left_out: Tensor, entropy: float, iterations: int) -> Tensor:
    """Cost of the entropic plan from q to p, [B, K] each -> [B], by Sinkhorn's iterations (1e-8: the authors').

    The classes `left_out` [B, K] have no mass. Their scaling is 0 throughout, so one kernel serves all pictures.
    """
    cost = cost.clamp(min=0) + 1e-8
    kernel = torch.exp(-cost / entropy)
    u = (~left_out).to(q) / (q.shape[1] - 1)
    for _ in range(iterations):
        v = p / (u @ kernel + 1e-8)
        u = q / (v @ kernel + 1e-8)
    return ((u @ (kernel * cost)) * v).sum(-1)
