"""A BiLSTM, the small student of the literature: another kind of net than its teacher.

Tang et al. 2019, https://arxiv.org/abs/1903.12136: word vectors, one bidirectional LSTM, its last states of both
directions through one hidden layer.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.errors import UserError
from kdbench.method.contract import Count, Inapplicable, Outputs, Share, Task
from kdbench.nets import Net, register_net
from kdbench.text.batches import SUFFIXES
from kdbench.text.nets import Reads

GIVEN = {"logits", "embedding", "features", "stem", "classifier"}


class Directions(nn.Module):
    """Two LSTMs, one for each direction. The second reads each text from its own end, so padding changes nothing."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.ahead = nn.LSTM(width, hidden, batch_first=True)
        self.back = nn.LSTM(width, hidden, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """[B, L, width], [B] -> states of both directions [B, L, 2 hidden], and the last ones [B, 2 hidden]."""
        places = torch.arange(x.shape[1], device=x.device)
        turn = torch.where(places < lengths[:, None], lengths[:, None] - 1 - places, places)[..., None]
        ahead = self.ahead(x)[0]
        turned = self.back(x.gather(1, turn.expand(-1, -1, x.shape[2])))[0]
        back = turned.gather(1, turn.expand(-1, -1, turned.shape[2]))
        end = (lengths - 1)[:, None, None].expand(-1, 1, ahead.shape[2])
        return torch.cat((ahead, back), 2), torch.cat((ahead.gather(1, end)[:, 0], back[:, 0]), 1)


class BiLSTM(nn.Module):
    """ids [B, L], lengths [B] -> logits [B, K] and what is before them."""

    def __init__(self, vocabulary: int, num_classes: int, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.directions = Directions(width, hidden)
        self.dense = nn.Linear(2 * hidden, hidden)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden, num_classes)

    def forward(self, ids: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        stem = self.embed(ids)
        states, last = self.directions(self.dropout(stem), lengths)
        embedding = self.dropout(torch.relu(self.dense(last)))
        return {"stem": stem, "states": states, "embedding": embedding, "logits": self.classifier(embedding)}


class BiLSTMNet(Net):
    def __init__(self, model: BiLSTM, suffix: str) -> None:
        super().__init__()
        self.model, self.suffix = model, suffix
        self.fields = (f"ids{suffix}", f"mask{suffix}")

    def forward(self, inputs: Any, needs: Collection[str] = ("logits",)) -> Outputs:
        """`needs`: which of `GIVEN` to deliver. Raises Inapplicable for the rest."""
        if lacking := sorted(set(needs) - GIVEN):
            raise Inapplicable(f"needs {lacking[0]}; BiLSTM gives none")
        mask = inputs[f"mask{self.suffix}"] != 0
        found = self.model(inputs[f"ids{self.suffix}"], mask.sum(1))
        head = self.model.classifier
        return Outputs(
            logits=found["logits"],
            embedding=found["embedding"] if "embedding" in needs else None,
            features=(found["states"] * mask[..., None],) if "features" in needs else (),
            stem=found["stem"] * mask[..., None] if "stem" in needs else None,
            mask=mask,
            classifier=(head.weight, head.bias) if "classifier" in needs else None,
        )


@register_net("bilstm")
def bilstm(
    task: Task, width: Count = 128, hidden: Count = 128, dropout: Share = 0.1, reads: Reads = "first"
) -> BiLSTMNet:
    """`width` of the word vectors, `hidden` of the states of each direction."""
    suffix = SUFFIXES[reads == "second"]
    ids = next((field for field in task.inputs.fields if field.name == f"ids{suffix}"), None)
    if ids is None:
        raise UserError(f"bilstm reads texts; this data set gives {task.inputs}")
    return BiLSTMNet(BiLSTM(int(ids.high), task.num_classes, width, hidden, dropout), suffix)
