"""Runs RWKV-7 over several samples in one row, each as if it were alone, as the trainer does.

`starts` (B, T), bool, is True at each sample's first token. There the wkv state is zero, and the token shift sees a
zero vector. A row whose first token is not a start continues from the state that it was given.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from midi_rwkv.kernels.dispatch import wkv7

from .rwkv7 import RWKV7, ModelState, Recurrence


def packed_hidden(
    model: RWKV7, x: Tensor, starts: Tensor | None, state: ModelState | None = None, *, backend: str = "auto"
) -> tuple[Tensor, ModelState]:
    """`RWKV7.hidden` for packed rows. If `starts` is None, nothing is packed."""
    if starts is None:
        return model.hidden(x, state, backend)
    x = x if x.is_floating_point() else model.emb(x)
    state = model.new_state(len(x)) if state is None else state
    segments = Segments.of(starts)
    x, v_first = model.layers()[0].ln0(x), None
    att_shift, ffn_shift, wkvs = [], [], []
    for i, block in enumerate(model.layers()):
        inputs, v_first, gate, last = block.before(x, state.att_shift[i], v_first, starts)
        att_shift.append(last)
        y, wkv = segments.wkv7(inputs, state.wkv[i], backend)
        wkvs.append(wkv)
        x, last = block.after(x, (y, inputs, gate), state.ffn_shift[i], starts)
        ffn_shift.append(last)
    return model.ln_out(x), ModelState(torch.stack(att_shift), torch.stack(ffn_shift), torch.stack(wkvs))


@dataclass(frozen=True)
class Segments:
    """The places of samples in rows, in the form that the kernels need. It is computed once and used by all layers.

    A segment is a sample, or the part of a row before its first start.
    """

    starts: Tensor  # (B, T)
    cu_seqlens: Tensor  # (N + 1,) on the CPU: where each segment begins among the B x T tokens, and the last one's end
    leading: Tensor  # (B,) the first segment of each row, which may continue from a state
    last: Tensor  # (B,) the last segment of each row, whose state is returned

    @classmethod
    def of(cls, starts: Tensor) -> Segments:
        begins = starts.cpu().clone()
        begins[:, 0] = True
        places = begins.flatten().nonzero()[:, 0]
        ends = begins.sum(1).cumsum(0)
        device = starts.device
        leading = (ends - begins.sum(1)).to(device)
        cu_seqlens = torch.cat([places, places.new_tensor([begins.numel()])])
        return cls(starts, cu_seqlens, leading, (ends - 1).to(device))

    def wkv7(self, inputs: Recurrence, wkv: Tensor, backend: str) -> tuple[Tensor, Tensor]:
        """The recurrence, from zero at every start -> y (B, T, H, V) and the state after each row (B, H, K, V)."""
        B, T = self.starts.shape
        carried = wkv.masked_fill(self.starts[:, 0, None, None, None], 0.0)
        initial = wkv.new_zeros(len(self.cu_seqlens) - 1, *wkv.shape[1:]).index_copy(0, self.leading, carried)
        in_one_row = Recurrence(*(t.reshape(1, B * T, *t.shape[2:]) for t in inputs))
        y, final = wkv7(*in_one_row, initial, cu_seqlens=self.cu_seqlens, backend=backend)
        return y.view(B, T, *y.shape[2:]), final[self.last]
