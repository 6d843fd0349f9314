"""Contrastive representation distillation: tell a picture's own pair of embeddings from thousands of wrong pairs."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Method, Outputs, Task, register_method
from kdbench.method.contract import Count, Positive, Share, one_label
from kdbench.method.functional import unit
from kdbench.method.stages import embeddings

EPS = 1e-7
TRIES = 32  # strides to choose from: one without a common factor is among them but for a chance in thousands


@register_method("crd", needs="embedding", paper="https://arxiv.org/abs/1910.10699", year=2020, family="relations")
class CRD(Method):
    """L(v_s, M_t) + L(v_t, M_s), v unit linear embeddings of width `dim`, M memories of both for every picture.

    L = -mean_b [log h(b, own) + sum_k log(1 - h(b, k))] over K = `negatives` pictures k of other classes (Tian et
    al., section 3), h = x / (x + K/N), x = exp(<v, M> / `temperature`) / Z, N pictures. Z is N times the first batch's
    mean, kept for ever. After every batch its rows of M become unit(`momentum` M + (1 - `momentum`) v). Weight: 0.8.
    The k are an arithmetic progression through the other classes, random in start and stride, the authors' a random
    draw: each picture of other classes comes as often in both.
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
        self, negatives: Count = 16384, momentum: Share = 0.5, temperature: Positive = 0.07, dim: Count = 128
    ) -> None:
        super().__init__()
        self.negatives, self.momentum, self.temperature, self.dim = negatives, momentum, temperature, dim

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        one_label(task, "remembers each picture, and contrasts it with those of other classes")
        s, t = embeddings(student, teacher)
        self.embed_s, self.embed_t = nn.Linear(s.shape[1], self.dim), nn.Linear(t.shape[1], self.dim)
        bound = math.sqrt(3 / self.dim)  # rows of length 1 on average
        for side in ("s", "t"):
            self.register_buffer(f"memory_{side}", torch.empty(task.num_train, self.dim).uniform_(-bound, bound))
        self.register_buffer("log_z", torch.zeros(2))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        label = torch.arange(task.num_train) if task.targets is None else task.targets  # else each is its own class
        count = label.new_zeros(len(label) if task.targets is None else task.num_classes)
        count = count.scatter_add(0, label, torch.ones_like(label))
        first, by_class = count.cumsum(0) - count, label.argsort(stable=True)
        for name, value in {"label": label, "by_class": by_class, "first": first, "count": count}.items():
            self.register_buffer(name, value, persistent=False)

    @torch.no_grad()
    def draw(self, batch: Batch) -> Tensor:
        """[B, 1 + K]: each picture's own place, then K places of other classes, none twice before all came once.

        With L others, class after class, the k-th is number (start + k stride) mod L, with a random start and a random
        stride that has no factor in common with L: each is as likely as any other, and nothing needs to be sorted.
        """
        own = self.label[batch.index][:, None]
        count, first = self.count[own], self.first[own]
        others = (len(self.label) - count).clamp(min=1)  # L
        start, *strides = (torch.rand(TRIES, len(own), 1, device=own.device) * others).long()
        stride = torch.stack([*strides, torch.ones_like(start)])
        chosen = (stride.gcd(others) == 1).long().argmax(0, keepdim=True)  # the first that will do; 1 always does
        rank = (start + torch.arange(self.negatives, device=own.device) * stride.gather(0, chosen)[0]) % others
        place = torch.where(rank >= first, rank + count, rank).clamp(max=len(self.label) - 1)  # over the own class
        return torch.cat((batch.index[:, None], self.by_class[place]), 1)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        s, t = embeddings(student, teacher)
        v_s, v_t = unit(self.embed_s(s)), unit(self.embed_t(t))
        places = self.draw(batch)
        scores = [self.scores(v_s, self.memory_t, places), self.scores(v_t, self.memory_s, places)]
        with torch.no_grad():
            self.set_z(scores)
            self.memory_s = self.moved(self.memory_s, v_s, batch.index)
            self.memory_t = self.moved(self.memory_t, v_t, batch.index)
        loss_s, loss_t = (self.contrast(x, z) for x, z in zip(scores, self.log_z, strict=True))
        return {"crd_student": loss_s, "crd_teacher": loss_t}

    def scores(self, v: Tensor, memory: Tensor, places: Tensor) -> Tensor:  # [B, 1 + K]
        """All N products, then K of them: that takes less than a copy of K rows of the memory for every picture."""
        return (v / self.temperature @ memory.T).gather(1, places)

    def contrast(self, scores: Tensor, log_z: Tensor) -> Tensor:
        """In logarithms, so that no temperature overflows: x / (x + c) = sigmoid(log x - log c)."""
        noise = self.negatives / len(self.label)
        above = scores - log_z - math.log(noise + EPS)
        own, wrong = F.logsigmoid(above[:, 0]), F.logsigmoid(-above[:, 1:]).sum(1)
        return -(own + wrong).mean() - self.negatives * math.log(noise / (noise + EPS))

    def set_z(self, scores: list[Tensor]) -> None:
        """Z = N mean(exp(score)) of the first batch. Chosen on the device: the host never waits for the flag."""
        log_z = torch.stack([x.logsumexp((0, 1)) - math.log(x.numel() / len(self.label)) for x in scores])
        self.log_z = torch.where(self.started, self.log_z, log_z)
        self.started = torch.ones_like(self.started)

    def moved(self, memory: Tensor, v: Tensor, index: Tensor) -> Tensor:
        """A new memory, not a changed one: the backward pass still needs the old."""
        rows = unit(self.momentum * memory[index] + (1 - self.momentum) * v)
        return memory.index_copy(0, index, rows)
