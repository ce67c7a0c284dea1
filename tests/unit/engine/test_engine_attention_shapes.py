"""FlashAttention on CUDA cannot run here; that it is called as torch declares it can be seen."""

from __future__ import annotations

import torch

from qwarden_engine.attention import (
    OfSlabOnCuda,
    OnCuda,
    Packing,
    Slots,
    Stretch,
    slots_on_cuda,
)

META = torch.device("meta")


def test_flash_attention_is_called_with_other_shapes_than_it_takes() -> None:
    rows = [(5, (4,)), (5, (4,)), (9, (3, 8))]
    attend = OnCuda(Packing.of(rows), META)
    queries = torch.empty(19, 16, 128, dtype=torch.bfloat16, device=META)
    keys = torch.empty(19, 8, 128, dtype=torch.bfloat16, device=META)
    reads = torch.empty(4, 16, 128, dtype=torch.bfloat16, device=META)
    for part, tokens in (
        (attend.to_past(queries, keys, keys), 19),
        (attend.to_own(queries, keys, keys), 19),
        (attend.reads_to_own(reads, keys, keys), 4),
        (
            slots_on_cuda(
                queries[:6],
                torch.empty(3, 7, 8, 128, dtype=torch.bfloat16, device=META),
                torch.empty(3, 7, 8, 128, dtype=torch.bfloat16, device=META),
                Slots((4, 0, 1), (2, 1, 3)),
            ),
            6,
        ),
    ):
        assert part.out.shape == (tokens, 16, 128)
        assert part.out.dtype is torch.bfloat16
        assert part.weight.shape == (tokens, 16)
        assert part.weight.dtype is torch.float32


def test_flash_attention_is_called_with_other_strides_than_it_takes() -> None:
    """A slab's tokens lie head by head."""
    slab = torch.empty(8, 512, 128, dtype=torch.bfloat16, device=META)
    queries = torch.empty(7, 16, 128, dtype=torch.bfloat16, device=META)
    for rows in ((range(3), range(4)), ((0, 1, 5), (1, 2, 3, 9))):
        stretches = [Stretch(256, 40, rows[0]), Stretch(0, 100, rows[1])]
        out = OfSlabOnCuda(stretches, META)(queries, slab, slab)
        assert out.shape == (7, 16, 128)
        assert out.dtype is torch.bfloat16
