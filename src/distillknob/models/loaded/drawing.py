"""Drawing the next token of every row by a random number of the row's own."""

from __future__ import annotations

import torch
from transformers import LogitsProcessor

from distillknob.errors import BadInputError

_BLOCK = 256  # tokens whose probabilities are summed before the cumulative sum over a vocabulary


class Draw(LogitsProcessor):
    """Draws the next token by inverting the cumulative distribution, and leaves it as the only possible one.

    `generate` then takes it greedily. The token at position t of row b is drawn by `uniform_BT[b, t]`, in [0, 1);
    `prompt_width` is how many tokens stand before position 0. Same distribution as torch.multinomial, for one random
    number a token in place of one for each token of the vocabulary. `logprobs` holds what each draw's log-probability
    was, [B] in float32 a step.
    """

    def __init__(self, uniform_BT: torch.Tensor, prompt_width: int):
        self.uniform_BT, self.prompt_width = uniform_BT, prompt_width
        self.logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        token_B, logprob_B = drawn(scores, self.uniform_BT[:, input_ids.size(1) - self.prompt_width])
        self.logprobs.append(logprob_B)
        return torch.full_like(scores, -torch.inf).scatter_(1, token_B[:, None], 0.0)


def drawn(logits_BV: torch.Tensor, uniform_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A token of each row by its random number, and its log-probability in float32: [B] each.

    Raises BadInputError for logits that are NaN or infinite.
    """
    top_B1 = logits_BV.max(-1, keepdim=True).values
    weight_BV = (logits_BV - top_B1).exp_()
    rows, width = weight_BV.shape
    blocks = -(-width // _BLOCK)
    weight_BNK = torch.nn.functional.pad(weight_BV, (0, blocks * _BLOCK - width)).view(rows, blocks, _BLOCK)
    # Summed in float64 over blocks: in float32 the sum over a large vocabulary would lose the tail.
    cdf_BN = weight_BNK.sum(-1).double().cumsum(-1)
    total_B = cdf_BN[:, -1]
    if not bool(total_B.isfinite().all()):
        raise BadInputError(
            "the model's logits are NaN or infinite, so no token can be drawn: it is broken, or overflows in its dtype "
            "(load it in bfloat16 or float32)"
        )
    wanted_B1 = (uniform_B * total_B)[:, None]
    block_B1 = torch.searchsorted(cdf_BN, wanted_B1, right=True).clamp_(max=blocks - 1)
    before_B1 = torch.where(block_B1 > 0, cdf_BN.gather(1, (block_B1 - 1).clamp(min=0)), 0.0)
    inside_BK = weight_BNK.gather(1, block_B1[..., None].expand(-1, -1, _BLOCK))[:, 0].double().cumsum(-1)
    # Below the block's end, which its own sum reaches up to rounding: the tokens behind it may be impossible ones.
    wanted_B1 = torch.minimum(wanted_B1 - before_B1, inside_BK[:, -1:] * (1 - 1e-15))
    place_B1 = torch.searchsorted(inside_BK, wanted_B1, right=True)
    token_B1 = block_B1 * _BLOCK + place_B1
    logprob_B = logits_BV.gather(1, token_B1)[:, 0].double() - top_B1[:, 0] - total_B.log()
    return token_B1[:, 0], logprob_B.float()
