"""Label smoothing: the simplest soft label, with no teacher."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Method, Outputs, register_method
from kdbench.method.contract import Share


@register_method("label_smoothing", needs=(), paper="https://arxiv.org/abs/1512.00567", year=2016, family="labels")
class LabelSmoothing(Method):
    """Cross-entropy with (1 - `smoothing`) on the label and `smoothing` spread over the classes; it takes CE's place.

    `over: all`: each of the K classes gets smoothing/K (Szegedy et al., section 7); `others`: each but the label gets
    smoothing/(K-1), as in Tf-KD's comparison.
    Where pictures are mixed, so are their smoothed labels.
    """

    def __init__(self, smoothing: Share = 0.1, over: Literal["all", "others"] = "all") -> None:
        super().__init__()
        self.smoothing, self.over = smoothing, over

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        classes = student.logits.shape[-1]
        # eps/(K-1) on the others alone is eps K/(K-1) spread over all.
        share = self.smoothing * (classes / (classes - 1) if self.over == "others" else 1)
        hard = F.cross_entropy(student.logits, batch.labels)
        return {"label_smoothing": (1 - share) * hard - share * student.logits.log_softmax(-1).mean()}
