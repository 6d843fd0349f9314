"""TinyBERT's embedding loss: what the student's first layer reads meets what the teacher's does."""

from torch import Tensor, nn

from kdbench import Batch, Method, Outputs, Task, register_method
from kdbench.method.functional import mean_at
from kdbench.method.stages import same_kind


@register_method(
    "embedding_layer", needs="stem", paper="https://arxiv.org/abs/1909.10351", year=2020, family="transformers"
)
class EmbeddingLayer(Method):
    """Mean over all places and entries of (W e_s - e_t)^2, W a trained linear map (Jiao et al., eq. 9).

    e is what the first layer of a transformer reads: words with their places, or patches of a picture with theirs.
    TinyBERT is this, `hidden` and `attention_scores`, weight 1 each, in a first stage, and then KD of the logits.
    """

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        assert student.stem is not None
        assert teacher.stem is not None
        same_kind(student.stem, teacher.stem)
        self.project = nn.Linear(student.stem.shape[2], teacher.stem.shape[2], bias=False)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        assert student.stem is not None
        assert teacher.stem is not None
        difference = self.project(student.stem) - teacher.stem
        return {"embedding_layer": mean_at(difference.square().mean(2), student.mask)}
