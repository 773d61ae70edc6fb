"""The forward pass over transformers' own Qwen3-VL modules, for batches of equal shape.

transformers walks ragged images one by one; training wants one matrix product for a whole batch. This file reads the
modules' weights and does the same arithmetic on `[batch, ...]` tensors. `tests/pocket/test_network.py` holds it to
transformers' result.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from pocket.train.config import MROPE_SECTION, ROPE_THETA


@dataclass(frozen=True, slots=True)
class Watched:
    """What training watches in the decoder: states after each layer [B, L, hidden], queries and keys [B, H, L, d]."""

    states: list[Tensor]
    queries: list[Tensor]
    keys: list[Tensor]


def new_model(config: dict[str, Any], seed: int, device: str = "cpu") -> Qwen3VLForConditionalGeneration:
    """A freshly initialized float32 model; `seed` decides its weights whatever the device."""
    torch.manual_seed(seed)
    # The config asks for bfloat16, which is fine to run and too coarse to train: hence float().
    make_config: Any = Qwen3VLConfig
    make_model: Any = Qwen3VLForConditionalGeneration._from_config
    model: Qwen3VLForConditionalGeneration = make_model(make_config(**config), dtype=torch.float32).float().to(device)
    with torch.no_grad():
        model.model.visual.pos_embed.weight.copy_(_wave_table(model.model.visual.pos_embed.weight))
    return model


def _wave_table(weight: Tensor) -> Tensor:
    """Starts position embeddings as smooth waves over the screen, so that places are readable from step one."""
    side = int(weight.size(0) ** 0.5)
    angle = torch.linspace(0, 1, side)[:, None] * torch.pi * 2.0 ** torch.linspace(-1, 4, weight.size(1) // 4)
    waves = torch.cat((angle.sin(), angle.cos()), dim=1)
    rows = waves[:, None].expand(side, side, -1)
    columns = waves[None].expand(side, side, -1)
    return torch.cat((rows, columns), dim=-1).reshape(weight.shape) * 0.1


@lru_cache(maxsize=32)
def _grid(rows: int, columns: int) -> Tensor:
    """Row and column of every patch in merge order, int64 [patches, 2]."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    grid = torch.stack((y, x), dim=-1).view(rows // 2, 2, columns // 2, 2, 2)
    return grid.permute(0, 2, 1, 3, 4).reshape(-1, 2)


def _patch_positions(visual: Any, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """Interpolated position embeddings [patches, hidden] and rotary cos, sin [patches, head_dim]."""
    weight = visual.pos_embed.weight
    grid = _grid(rows, columns).to(weight.device)
    side = int(weight.size(0) ** 0.5)
    last = torch.tensor([rows - 1, columns - 1], device=weight.device)
    place = grid * ((side - 1) / last)
    low = place.long().clamp(max=side - 1)
    high = (low + 1).clamp(max=side - 1)
    dy, dx = (place - low).unbind(-1)
    embeds = (
        weight[low[:, 0] * side + low[:, 1]] * ((1 - dy) * (1 - dx))[:, None]
        + weight[low[:, 0] * side + high[:, 1]] * ((1 - dy) * dx)[:, None]
        + weight[high[:, 0] * side + low[:, 1]] * (dy * (1 - dx))[:, None]
        + weight[high[:, 0] * side + high[:, 1]] * (dy * dx)[:, None]
    )
    quarter = visual.config.hidden_size // visual.config.num_heads // 4
    inv_freq = 10000.0 ** -(torch.arange(quarter, device=weight.device) / quarter)
    freqs = (grid[:, :, None] * inv_freq).flatten(1)
    angles = torch.cat((freqs, freqs), dim=-1)
    return embeds, angles.cos(), angles.sin()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of `x` [..., dim] by tables that broadcast to it."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def _lower(x: Tensor) -> Tensor:
    """The residual stream in autocast's type, if autocast is on: half the memory traffic of float32."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def _rms_norm(norm: Any, x: Tensor) -> Tensor:
    return F.rms_norm(x, norm.weight.shape, norm.weight.to(x.dtype), norm.variance_epsilon)


def _layer_norm(norm: Any, x: Tensor) -> Tensor:
    return F.layer_norm(x, norm.weight.shape, norm.weight.to(x.dtype), norm.bias.to(x.dtype), norm.eps)


def to_patches(images: Tensor) -> Tensor:
    """uint8 images [batch, height, width, 3] to patches in merge order, float [batch, patches, 768], in [-1, 1]."""
    batch, height, width, _ = images.shape
    x = images.view(batch, height // 32, 2, 16, width // 32, 2, 16, 3).permute(0, 1, 4, 2, 5, 7, 3, 6)
    return x.reshape(batch, -1, 768).float() / 127.5 - 1


def encode_images(
    model: Qwen3VLForConditionalGeneration, images: Tensor, deepstack: bool = True
) -> tuple[Tensor, list[Tensor], Tensor]:
    """uint8 [batch, height, width, 3] to `(patches [B, 4T, 256], deepstack 2 x [B, T, 256], merged [B, T, 256])`."""
    visual = model.model.visual
    conv = visual.patch_embed.proj
    x = F.linear(to_patches(images), conv.weight.sum(dim=2).flatten(1), conv.bias)  # a still image fills both frames
    embeds, cos, sin = _patch_positions(visual, images.size(1) // 16, images.size(2) // 16)
    x = _lower(x + embeds)
    batch, count, hidden = x.shape
    taps = []
    for index, block in enumerate(visual.blocks):
        heads = visual.config.num_heads
        qkv = block.attn.qkv(_layer_norm(block.norm1, x)).view(batch, count, 3, heads, -1).permute(2, 0, 3, 1, 4)
        table_cos, table_sin = cos.to(qkv.dtype), sin.to(qkv.dtype)
        query, key = _rotate(qkv[0], table_cos, table_sin), _rotate(qkv[1], table_cos, table_sin)
        mixed = _attend_all(query, key, qkv[2])
        x = x + block.attn.proj(mixed.transpose(1, 2).reshape(batch, count, hidden))
        x = x + block.mlp(_layer_norm(block.norm2, x))
        if index in visual.config.deepstack_visual_indexes:
            taps.append(x)
    mergers = visual.deepstack_merger_list if deepstack else ()
    return x, [_merge(merger, tap) for merger, tap in zip(mergers, taps, strict=False)], _merge(visual.merger, x)


def _attend_all(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Full attention, [B, H, N, d] each. On a CPU plain products are a sixth faster for a whole training step."""
    if query.is_cuda:
        return F.scaled_dot_product_attention(query, key, value)
    mixed: Tensor = ((query * query.size(-1) ** -0.5) @ key.transpose(2, 3)).softmax(-1) @ value
    return mixed


def _merge(merger: Any, x: Tensor) -> Tensor:
    """[B, 4T, hidden] to [B, T, text hidden]: four neighbours become one token."""
    batch, count, hidden = x.shape
    if not merger.use_postshuffle_norm:
        x = _layer_norm(merger.norm, x)
    grouped = x.view(batch, count // 4, hidden * 4)
    if merger.use_postshuffle_norm:
        grouped = _layer_norm(merger.norm, grouped)
    merged: Tensor = merger.linear_fc2(merger.act_fn(merger.linear_fc1(grouped)))
    return merged


def _text_rotary(config: Any, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Interleaved M-RoPE tables cos, sin [B, L, head_dim] for int64 positions [3, B, L]: time, height, width."""
    half = config.head_dim // 2
    inv_freq = ROPE_THETA ** -(torch.arange(half, device=positions.device) / half)
    angles = positions[..., None] * inv_freq
    mixed = angles[0].clone()
    for axis, section in enumerate(MROPE_SECTION[1:], start=1):
        mixed[..., axis : section * 3 : 3] = angles[axis, ..., axis : section * 3 : 3]
    both = torch.cat((mixed, mixed), dim=-1)
    return both.cos(), both.sin()


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Grouped-query attention. query [B, H, L, d], key and value [B, K, L, d], bias [B, 1, L, L] added to the scores.

    On a CPU plain products beat the fused kernel with a mask by two to one (measured, length 320, bfloat16).
    """
    batch, heads, length, dim = query.shape
    groups = heads // key.size(1)
    if query.is_cuda:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    stacked = (query * dim**-0.5).reshape(batch, -1, groups * length, dim)
    scores = (stacked @ key.transpose(2, 3)).view(batch, -1, groups, length, length) + bias[:, :, None]
    mixed: Tensor = scores.softmax(-1).view(batch, -1, groups * length, length) @ value
    return mixed.view(batch, heads, length, dim)


def decode(
    model: Qwen3VLForConditionalGeneration, embeds: Tensor, deepstack: list[Tensor], positions: Tensor, mask: Tensor
) -> tuple[Tensor, Watched]:
    """Hidden states before the LM head, and what training watches on the way.

    embeds [B, L, 256]; deepstack: one [B, L, 256] per tap, zero off the images; positions int64 [3, B, L];
    mask bool [B, 1, L, L], True where a query may look.
    """
    text = model.model.language_model
    x = _lower(embeds)
    bias = torch.zeros_like(mask, dtype=x.dtype).masked_fill(~mask, -30000.0)
    watched = Watched([], [], [])
    batch, length, _ = x.shape
    cos, sin = (table[:, None].to(x.dtype) for table in _text_rotary(text.config, positions))
    for index, layer in enumerate(text.layers):
        attn = layer.self_attn
        normed = _rms_norm(layer.input_layernorm, x)
        query = _rms_norm(attn.q_norm, attn.q_proj(normed).view(batch, length, -1, attn.head_dim)).transpose(1, 2)
        key = _rms_norm(attn.k_norm, attn.k_proj(normed).view(batch, length, -1, attn.head_dim)).transpose(1, 2)
        value = attn.v_proj(normed).view(batch, length, -1, attn.head_dim).transpose(1, 2)
        query, key = _rotate(query, cos, sin).to(value.dtype), _rotate(key, cos, sin).to(value.dtype)
        mixed = _attend(query, key, value, bias)
        x = x + attn.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))
        x = x + layer.mlp(_rms_norm(layer.post_attention_layernorm, x))
        if index < len(deepstack):
            x = x + deepstack[index].to(x.dtype)
        watched.states.append(x)
        watched.queries.append(query)
        watched.keys.append(key)
    return _rms_norm(text.norm, x), watched
