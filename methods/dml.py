"""Deep mutual learning: two students teach each other; there is no teacher."""

import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Method, Outputs, register_method
from kdbench.method.functional import soft_kl


@register_method(
    "dml",
    needs=(),
    student_needs=("logits", "peer"),
    paper="https://arxiv.org/abs/1706.00384",
    year=2018,
    family="structure",
)
class DML(Method):
    """mean KL(peer || student), and the peer's own loss CE(peer) + mean KL(student || peer) (Zhang et al. 2018).

    The peer is the same net with other initial weights; it sees the same batches and the same optimizer, and is left
    behind after the training. Each takes the other's probabilities as they stand: no gradient through them. Both are
    updated at once, from one forward; the paper's algorithm updates them in turn. 1 CE + 1 DML.
    """

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        own, peer = student.logits, student.views["peer"].logits
        return {
            "dml": soft_kl(own, peer.detach()).mean(),
            "dml_peer": soft_kl(peer, own.detach()).mean(),
            "dml_peer_ce": F.cross_entropy(peer, batch.labels),
        }
