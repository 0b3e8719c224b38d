"""LSTM layers in ONNX: torch would write one node for each frame, for a single length of audio."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

_VERSION = 14  # of the operator LSTM
# The gates in PyTorch are input, forget, cell, output; in ONNX they are input, output, forget, cell.
_GATES = (0, 3, 1, 2)


@contextmanager
def onnx_lstm(model: nn.Module) -> Iterator[None]:
    """Replace the LSTM layers of a model by ONNX's operator, with which it can be exported, but not be used."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.LSTM)}
    for name, layer in layers.items():
        model.set_submodule(name, _OnnxLSTM(layer))
    try:
        yield
    finally:
        for name, layer in layers.items():
            model.set_submodule(name, layer)


class _OnnxLSTM(nn.Module):
    """A layer of LSTM in one direction, whose input has the batch first."""

    weight: torch.Tensor
    recurrent: torch.Tensor
    bias: torch.Tensor

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        assert lstm.batch_first and not lstm.bidirectional and lstm.num_layers == 1
        self.hidden_size = lstm.hidden_size

        def gather(kind: str) -> torch.Tensor:
            """Weights of all gates, (1, 4 × hidden, ...)."""
            gates = getattr(lstm, f"{kind}_l0").detach().chunk(4)
            return torch.cat([gates[gate] for gate in _GATES])[None]

        self.register_buffer("weight", gather("weight_ih"))
        self.register_buffer("recurrent", gather("weight_hh"))
        self.register_buffer("bias", torch.cat([gather("bias_ih"), gather("bias_hh")], 1))

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, None]:
        """(batch, frames, input) to (batch, frames, hidden), of zeros when it is called outside of an export."""
        batch, frames, _ = hidden.shape
        output = torch.onnx.ops.symbolic(
            "LSTM",
            [hidden.transpose(0, 1), self.weight, self.recurrent, self.bias],
            {"hidden_size": self.hidden_size},
            dtype=hidden.dtype,
            shape=[frames, 1, batch, self.hidden_size],
            version=_VERSION,
        )
        return output[:, 0].transpose(0, 1), None
