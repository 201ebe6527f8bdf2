"""Multi-head self-attention that never looks at padding."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from polytask.errors import UserError


class SelfAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al., "Attention Is All You Need", NeurIPS 2017).

    Args:
        dim: Number of features of a token.
        heads: Number of attention heads; divides `dim`.
        dropout: Probability of dropping an attention weight while training.

    Raises:
        UserError: `heads` does not divide `dim`.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        if dim % heads:
            raise UserError(f"'heads' must divide 'dim', but {heads} does not divide {dim}.")
        self.heads = heads
        self.dropout = dropout
        self.project = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        nn.init.zeros_(self.project.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, values: Tensor, mask: Tensor | None) -> Tensor:
        """`[B, T, dim]` to `[B, T, dim]`; tokens whose mask `[B, T]` is false are not attended to."""
        batch, length, dim = values.shape
        parts = self.project(values).view(batch, length, 3, self.heads, dim // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if mask is None else mask[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out(attended.transpose(1, 2).reshape(batch, length, dim))  # type: ignore[no-any-return]
