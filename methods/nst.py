"""Neuron selectivity transfer: the channels of student and teacher as two samples of one distribution."""

import torch
from torch import Tensor

from kdbench import Batch, Method, Outputs, Task, register_method
from kdbench.method.contract import Stage
from kdbench.method.functional import gram, pool_to_smaller, unit
from kdbench.method.stages import needs_places, pair_stages


@register_method("nst", needs="features", paper="https://arxiv.org/abs/1707.01219", year=2017, family="maps")
class NeuronSelectivityTransfer(Method):
    """Sum over stages of k(t, t) + k(s, s) - 2 k(s, t), k(a, b) = mean over channels c, c' of <a_c, b_c'>^2.

    The maximum mean discrepancy with the polynomial kernel of degree 2 (Huang and Wang, eq. 7-8) of channels that are
    unit over their N positions. Of maps on different grids the larger is average-pooled. Weight in the CRD table: 50.
    """

    def __init__(self, stages: tuple[Stage, ...] = (-3, -2, -1)) -> None:
        super().__init__()
        self.stages = stages

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        self.pairs = pair_stages(student.features, teacher.features, self.stages)
        needs_places(student.features, teacher.features, self.pairs)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        losses = []
        for s, t in self.pairs:
            s_map, t_map = pool_to_smaller(student.features[s], teacher.features[t])
            losses.append(discrepancy(s_map.flatten(2), t_map.flatten(2)))
        return {"nst": torch.stack(losses).sum()}


def discrepancy(s: Tensor, t: Tensor) -> Tensor:
    """[B, C_s, N], [B, C_t, N] -> squared discrepancy (scalar), from C x C or N x N Grams, whichever is smaller."""
    if s.shape[2] <= max(s.shape[1], t.shape[1]):
        # sum_cc' <a_c, b_c'>^2 = <A^T A, B^T B>: the three terms are one square.
        s, t = unit(s).transpose(1, 2), unit(t).transpose(1, 2)
        return (gram(s) / s.shape[2] - gram(t) / t.shape[2]).square().sum((1, 2)).mean()
    # Products are brought to unit length, not the maps: they are the smaller ones.
    s_products, t_products, mixed = gram(s), gram(t), s @ t.transpose(1, 2)
    s_scale, t_scale = (x.diagonal(0, 1, 2).clamp(min=1e-24).rsqrt() for x in (s_products, t_products))
    terms = (s_scale, s_products, s_scale), (t_scale, t_products, t_scale), (s_scale, mixed, t_scale)
    same_s, same_t, cross = ((a[:, :, None] * x * b[:, None]).square().mean() for a, x, b in terms)
    return same_t + same_s - 2 * cross
