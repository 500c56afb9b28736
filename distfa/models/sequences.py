"""The character transformer, for samples that are sequences of tokens (length,).

Shapes: n sequences of T <= length positions, streams (n, T, width).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distfa.errors import ModelError
from distfa.models.residual import Start, start_branches


class TokenEmbedding(nn.Module):
    """A learned vector per token plus one per position, (n, T) int64 -> (n, T, width).

    They start with a standard deviation of 0.02, as in GPT-2, so that the blocks soon outweigh them.
    """

    def __init__(self, tokens: int, length: int, width: int) -> None:
        super().__init__()
        self.token = nn.Embedding(tokens, width)
        self.position = nn.Embedding(length, width)
        for table in (self.token, self.position):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (n, T) to (n, T, width)."""
        out: Tensor = self.token(x) + self.position(torch.arange(x.shape[1], device=x.device))
        return out


class CausalAttention(nn.Module):
    """Multi-head attention of each position to itself and those before it, (n, T, width) -> (n, T, width).

    Its four maps are plain Linear modules (queries, keys and values in one).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Both have shape (n, T, width)."""
        n, length, width = x.shape
        heads = self.query_key_value(x).view(n, length, 3, self.heads, width // self.heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each (n, heads, T, width / heads)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(n, length, width))
        return out


class TransformerBlock(nn.Module):
    """h = x + attention(LayerNorm(x)), then h + mlp(LayerNorm(h)); (n, T, width) -> (n, T, width)."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(width), CausalAttention(width, heads), nn.Dropout(dropout))
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Both have shape (n, T, width)."""
        h = x + self.attention(x)
        out: Tensor = h + self.mlp(h)
        return out


def transformer(
    tokens: int,
    length: int,
    width: int = 64,
    heads: int = 4,
    depth: int = 2,
    dropout: float = 0.0,
    *,
    outputs: int | None = None,
    start: Start = "torch",
) -> nn.Sequential:
    """A causal transformer with pre-norm blocks: TokenEmbedding, blocks, LayerNorm, Linear.

    Args:
        tokens: Size of the vocabulary.
        length: Largest number of positions in a sequence.
        width: Width of the residual stream.
        heads: Heads of each attention; a divisor of ``width``.
        depth: Number of blocks.
        dropout: Share of the numbers that each branch drops in training.
        outputs: Classes per position; None is ``tokens``.
        start: As for ``start_branches``.

    Returns:
        (n, T) int64 -> (n, T, outputs).

    Raises:
        ModelError: ``heads`` does not divide ``width``.

    Sources: A. Vaswani et al., Attention is all you need, 2017; A. Radford et al., GPT-2, 2019 (pre-norm).
    """
    if heads < 1 or width % heads:
        raise ModelError(f"transformer of width {width} with {heads} heads; width must be a multiple of heads")
    blocks = [TransformerBlock(width, heads, dropout) for _ in range(depth)]
    start_branches([branch for block in blocks for branch in (block.attention, block.mlp)], start)
    return nn.Sequential(
        TokenEmbedding(tokens, length, width),
        *blocks,
        nn.LayerNorm(width),
        nn.Linear(width, tokens if outputs is None else outputs),
    )
