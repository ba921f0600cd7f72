"""`nn.MultiheadAttention` step by step, so that the engine sees its projections as linear layers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional


@contextmanager
def step_by_step(attention: nn.MultiheadAttention) -> Iterator[None]:
    """Let a layer compute self-attention in separate steps within a block.

    The numbers are those of the layer in evaluation mode up to rounding. Its own forward pass hides the calls of
    `functional.linear`.

    Args:
        attention: The layer.

    Raises:
        NotImplementedError: Within the block, for attention to something else, for masks, and for projections that are
            not packed.
    """

    def forward(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        masked = key_padding_mask is not None or attn_mask is not None or is_causal
        packed = attention.in_proj_weight is not None and attention.bias_k is None and not attention.add_zero_attn
        if masked or not packed or query is not key or key is not value or query.dim() != 3:
            raise NotImplementedError(
                "attention with masks, to other inputs, or without a packed projection has no rule"
            )
        x = query if attention.batch_first else query.transpose(0, 1)
        projected = functional.linear(x, attention.in_proj_weight, attention.in_proj_bias)
        heads = projected.unflatten(2, (3, attention.num_heads, attention.head_dim))
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        weights = None
        if need_weights:
            weights = (q @ k.mT * attention.head_dim**-0.5).softmax(-1)
            mixed = weights @ v
        else:
            mixed = functional.scaled_dot_product_attention(q, k, v)
        y: Tensor = attention.out_proj(mixed.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        return y if attention.batch_first else y.transpose(0, 1), weights

    replaced: Any = attention
    replaced.forward = forward
    try:
        yield
    finally:
        del replaced.forward
