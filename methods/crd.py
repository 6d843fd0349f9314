"""Contrastive representation distillation: tell a picture's own pair of embeddings from thousands of wrong pairs."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Method, Outputs, Task, register_method
from kdbench.functional import unit
from kdbench.method import Count, Positive, Share
from kdbench.stages import embeddings

EPS = 1e-7
MOST_KEYS = 2**26  # random numbers held at once while negatives are drawn


@register_method("crd", needs="embedding", paper="https://arxiv.org/abs/1910.10699", year=2020, family="relations")
class CRD(Method):
    """L(v_s, M_t) + L(v_t, M_s), v unit linear embeddings of width `dim`, M memories of both for every picture.

    L = -mean_b [log h(b, own) + sum_k log(1 - h(b, k))] over K = `negatives` pictures k of other classes (Tian et
    al., section 3), h = x / (x + K/N), x = exp(<v, M> / `temperature`) / Z, N pictures. Z is N times the first batch's
    mean, kept for ever. After every batch its rows of M become unit(`momentum` M + (1 - `momentum`) v). Weight: 0.8.
    """

    memory_s: Tensor  # [N, dim]
    memory_t: Tensor
    log_z: Tensor  # [2]: of the scores of v_s and of v_t
    started: Tensor  # bool: log_z is known
    label: Tensor  # [N]: class of every picture
    by_class: Tensor  # [N]: the pictures, class after class
    first: Tensor  # [number of classes]: where in `by_class` a class begins
    count: Tensor  # [number of classes]

    def __init__(
        self,
        negatives: Count = 16384,
        momentum: Share = 0.5,
        temperature: Positive = 0.07,
        dim: Count = 128,
    ) -> None:
        super().__init__()
        self.negatives, self.momentum, self.temperature, self.dim = negatives, momentum, temperature, dim

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        s, t = embeddings(student, teacher)
        self.embed_s = nn.Linear(s.shape[1], self.dim)
        self.embed_t = nn.Linear(t.shape[1], self.dim)
        bound = math.sqrt(3 / self.dim)  # rows of length 1 on average
        for side in ("s", "t"):
            self.register_buffer(f"memory_{side}", torch.empty(task.num_train, self.dim).uniform_(-bound, bound))
        self.register_buffer("log_z", torch.zeros(2))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        # Without labels every picture is a class of its own.
        label = torch.arange(task.num_train) if task.targets is None else task.targets
        count = label.new_zeros(task.num_train if task.targets is None else task.num_classes)
        count = count.scatter_add(0, label, torch.ones_like(label))
        self.register_buffer("label", label, persistent=False)
        self.register_buffer("by_class", label.argsort(stable=True), persistent=False)
        self.register_buffer("first", count.cumsum(0) - count, persistent=False)
        self.register_buffer("count", count, persistent=False)

    @torch.no_grad()
    def draw(self, batch: Batch) -> Tensor:
        """[B, 1 + K]: each picture's own place, then K places of other classes: different ones if there are K."""
        own = self.label[batch.index]
        without = self.draw_without_replacement(own)
        count, first, pictures = self.count[own][:, None], self.first[own][:, None], len(self.label)
        chance = torch.rand(len(own), self.negatives, device=own.device, dtype=self.log_z.dtype)
        rank = (chance * (pictures - count)).long()  # among the others, class after class; step over the own class
        place = torch.where(rank >= first, rank + count, rank).clamp(max=pictures - 1)
        enough = pictures - count >= self.negatives
        return torch.cat((batch.index[:, None], torch.where(enough, without, self.by_class[place])), 1)

    def draw_without_replacement(self, own: Tensor) -> Tensor:  # classes [B] -> [B, K]
        """The K largest of one random key per training picture; the own class has none."""
        pictures = len(self.label)
        found = []
        for some in own.split(max(MOST_KEYS // pictures, 1)):
            keys = torch.rand(len(some), pictures, device=own.device).masked_fill_(self.label == some[:, None], -1)
            found.append(keys.topk(min(self.negatives, pictures), sorted=False).indices)
        return F.pad(torch.cat(found), (0, max(self.negatives - pictures, 0)))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        s, t = embeddings(student, teacher)
        v_s, v_t = unit(self.embed_s(s)), unit(self.embed_t(t))
        places = self.draw(batch)
        scores = [self.scores(v, memory, places) for v, memory in ((v_s, self.memory_t), (v_t, self.memory_s))]
        with torch.no_grad():
            times = self.times(places, v_s)
            self.set_z(scores, times)
            self.memory_s = self.moved(self.memory_s, v_s, batch.index)
            self.memory_t = self.moved(self.memory_t, v_t, batch.index)
        loss_s, loss_t = (self.contrast(*some, times, z) for some, z in zip(scores, self.log_z, strict=True))
        return {"crd_student": loss_s, "crd_teacher": loss_t}

    @property
    def dense(self) -> bool:
        """Whether scores with all N pictures take less memory than copies of K memory rows for every picture."""
        return 4 * len(self.label) <= self.negatives * self.dim

    def scores(self, v: Tensor, memory: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """<v, M> / T of each picture with its own row [B] and with others: its K negatives [B, K], or all [B, N]."""
        own, others = places[:, 0], places[:, 1:]
        v = v / self.temperature
        if self.dense:
            products = v @ memory.T
            return products.gather(1, own[:, None]).squeeze(1), products
        return (memory[own] * v).sum(1), (memory[others] @ v[:, :, None]).squeeze(-1)

    def times(self, places: Tensor, like: Tensor) -> Tensor:
        """How often each of the others' scores counts, in the dtype of `like`: once, or as often as it was drawn."""
        one = like.new_ones(()).expand(places[:, 1:].shape)
        if self.dense:
            return like.new_zeros(len(places), len(self.label)).scatter_add_(1, places[:, 1:], one)
        return one

    def contrast(self, own: Tensor, others: Tensor, times: Tensor, log_z: Tensor) -> Tensor:
        """In logarithms, so that no temperature overflows: x / (x + c) = sigmoid(log x - log c)."""
        noise = self.negatives / len(self.label)
        shift = log_z + math.log(noise + EPS)
        wrong = (times * F.logsigmoid(shift - others)).sum(1)
        return -(F.logsigmoid(own - shift) + wrong).mean() - self.negatives * math.log(noise / (noise + EPS))

    def set_z(self, scores: list[tuple[Tensor, Tensor]], times: Tensor) -> None:
        """Z = N mean(exp(score)) of the first batch. Chosen on the device: the host never waits for the flag."""
        log_times = times.log()
        both = [torch.cat((own[:, None], others + log_times), 1) for own, others in scores]
        num_scores = len(times) * (1 + self.negatives)
        log_z = torch.stack([x.logsumexp((0, 1)) for x in both]) + math.log(len(self.label) / num_scores)
        self.log_z = torch.where(self.started, self.log_z, log_z)
        self.started = torch.ones_like(self.started)

    def moved(self, memory: Tensor, v: Tensor, index: Tensor) -> Tensor:
        """A new memory, not a changed one: the backward pass still needs the old."""
        rows = unit(self.momentum * memory[index] + (1 - self.momentum) * v)
        return memory.index_copy(0, index, rows)
