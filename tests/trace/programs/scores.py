"""Scores and weights of many forms: caps, norms, gates, distances, cumulative sums, constants."""

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine(q, k, v, tau: float):
    q = F.normalize(q, dim=-1)
    k = F.normalize(k, dim=-1)
    return ((q @ k.mT) / tau).softmax(-1) @ v


def geometric(q, k, v):
    d2 = ((q[:, :, :, None] - k[:, :, None]) ** 2).sum(-1)
    return (-d2 / 2).softmax(-1) @ v


def cdist(q, k, v):
    d2 = (q * q).sum(-1, keepdim=True) + (k * k).sum(-1)[:, :, None, :] - 2 * q @ k.mT
    return torch.softmax(-d2, -1) @ v


def linear_attention(q, k, v):
    q = F.elu(q) + 1
    k = F.elu(k) + 1
    kv = torch.einsum("bhnd,bhne->bhde", k, v)
    z = 1 / (torch.einsum("bhnd,bhd->bhn", q, k.sum(2)) + 1e-6)
    return torch.einsum("bhnd,bhde,bhn->bhne", q, kv, z)


def relu_attn(q, k, v):
    return F.relu(q @ k.mT) ** 2 / k.shape[2] @ v


def sigmoid_attn(q, k, v, bias: float = -1.0):
    return torch.sigmoid(q @ k.mT * q.shape[-1] ** -0.5 + bias) @ v


def talking(
    q,
    k,
    v,
    w1: Tensor,  # [H, H]
    w2: Tensor,  # [H, H]
):
    s = torch.einsum("bhid,bhjd->bhij", q, k)
    s = torch.einsum("hg,bhij->bgij", w1, s)
    a = s.softmax(-1)
    a = torch.einsum("hg,bhij->bgij", w2, a)
    return a @ v


def channel(q, k, v):
    a = F.softmax(q.mT @ k / q.shape[2], dim=-1)
    return (a @ v.mT).mT


def double_softmax(q, k, v):
    s = q @ k.mT
    return (s.softmax(-1) * s.softmax(-2)) @ v


def entropy(q, k, v):
    p = (q @ k.mT).softmax(-1)
    return p @ v, -(p * p.log()).sum(-1)


def cumul(
    q,
    k,
    v,
    f: Tensor,  # [B, H, S]
):
    c = F.logsigmoid(f).cumsum(-1)
    s = q @ k.mT + c[..., :, None] - c[..., None, :]
    n = q.shape[2]
    s = s.masked_fill(torch.ones(n, n).tril().logical_not(), float("-inf"))
    return s.softmax(-1) @ v


def nested_const(q, k, v):
    w = torch.tensor([0.5, 1.0, 2.0, 4.0])
    i = torch.arange(k.shape[2])
    return (q @ k.mT + w[i % 4]).softmax(-1) @ v


def loops(q, k, v):
    out = 0
    for i in range(3):
        att = (q @ k.mT * (i + 1)).softmax(-1)
        out = out + att @ v
    return out / 3


@torch.no_grad()
def pinned_loop(q, k, v, /, steps: int = 3, *, tau: float = 1.0):
    out = torch.zeros_like(v)
    for i in range(steps):
        out = out + (q @ k.mT * (i + 1) / tau).softmax(-1) @ v
    return out


def qk_norm(q, k, v, g: Tensor):  # [D]
    def rms(x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * g

    return (rms(q) @ rms(k).mT).softmax(-1) @ v


def layer_norm(
    q,
    k,
    v,
    w: Tensor,  # [D]
    b: Tensor,  # [D]
):
    q = F.layer_norm(q, (q.shape[-1],), w, b)
    return (q @ k.mT).softmax(-1) @ v


def lse(q, k, v):
    s = q @ k.mT * q.shape[-1] ** -0.5
    total = torch.logsumexp(s, dim=-1)
    return torch.exp(s - total.unsqueeze(-1)) @ v, total


def log_soft(q, k, v):
    s = q @ k.mT * q.shape[-1] ** -0.5
    return F.log_softmax(s, -1).exp() @ v


def dilated(q, k, v, dilation: int):
    i = torch.arange(q.shape[2])[:, None]
    j = torch.arange(k.shape[2])[None]
    keep = ((i - j) % dilation == 0) & (j <= i)
    return torch.where(keep, q @ k.mT, torch.finfo(q.dtype).min).softmax(-1) @ v


def weights_zeroed(
    q,
    k,
    v,
    m: Tensor,  # [B, S_kv] bool
):
    s = q @ k.mT
    s = torch.max(s, torch.tensor(torch.finfo(s.dtype).min))
    s = s.masked_fill(m[:, None, None], torch.finfo(s.dtype).min)
    p = s.softmax(-1)
    p = p.masked_fill(m[:, None, None], 0.0)
    p = p / (p.sum(-1, keepdim=True) + 1e-6)
    return p @ v


def activations(q, k, v):
    s = q @ k.mT
    s = F.gelu(s) + F.gelu(s, approximate="tanh") + F.silu(s) + F.softplus(s) + F.leaky_relu(s, 0.1) + F.elu(s)
    s = s + F.hardtanh(s) + torch.sign(s) + s.abs().sqrt() + torch.exp2(s.clamp(-3, 3)) + torch.reciprocal(s.abs() + 1)
    s = s + torch.erf(s) + s.floor() + s.ceil() + torch.log1p(s * s) + torch.rsqrt(s * s + 1) + torch.nan_to_num(s)
    s = s + torch.where(torch.isfinite(s), 0.0, 1.0) + s.relu() + s.tanh() + s.sigmoid() + F.logsigmoid(s)
    return s.softmax(-1) @ v


def statistics(q, k, v):
    s = q @ k.mT
    s = (s - s.mean(-1, keepdim=True)) / (s.var(-1, keepdim=True) + 1e-3).sqrt()
    s = s + s.std(dim=-1, unbiased=False, keepdim=True) + s.norm(dim=-1, keepdim=True)
    s = s - s.amin(-1, keepdim=True) + s.max() + s.min(dim=-1, keepdim=True)[0]
    return s @ v / s.abs().sum(-1, keepdim=True).clamp_min(1e-6)


def booleans(q, k, v):
    i = torch.arange(q.shape[2])
    j = torch.arange(k.shape[2])
    m = (i[:, None] > j) ^ (j % 3 == 0) | ~(i[:, None] < 2)
    m = torch.logical_or(m, torch.logical_and(i[:, None] == j, j != 4))
    s = (q @ k.mT) * m + (1 - m.float()) * -1e4
    s = s.masked_fill(~m.any(-1, keepdim=True), 0.0).masked_fill(m.all(-1, keepdim=True), 1.0)
    return s.softmax(-1) @ v


def rounding(q, k, v):
    i = torch.arange(q.shape[2])[:, None]
    j = torch.arange(k.shape[2])
    d = i - j
    b = d // 2 + torch.div(d, 3, rounding_mode="trunc") + d % 4 + torch.floor_divide(d, 5) + (d / 3).floor()
    b = b + d.clamp(-2, 2) + torch.sign(d) + d.abs().sqrt() + d**2 + torch.maximum(d, -d) + torch.minimum(i, j)
    return (q @ k.mT + 0.1 * b).softmax(-1) @ v


def cumulative(q, k, v):
    w = (q @ k.mT).softmax(-1)
    return w.cumsum(-1) @ v


def creations(q, k, v):
    n, m = q.shape[-2], k.shape[-2]
    b = torch.eye(n, m) + torch.zeros(n, 1) + q.new_ones(n, m) + torch.full((m,), 0.5) + torch.linspace(0, 1, m)
    b = b + torch.arange(m - 1, -1, -1) * 0.1 + torch.arange(0, 2 * m, 2) * 0.2 + torch.ones_like(b) + q.new_zeros(m)
    b = b + torch.full_like(b, 2.0).triu(1).tril(3) + torch.tensor(0.25) + torch.empty_like(b).fill_(1.0)
    return (q @ k.mT + b).softmax(-1) @ v


def not_itself(q, k, v):
    """The diagonal of a mask, and of a bias, filled."""
    n = q.shape[-2]
    seen = torch.ones(n, n, dtype=torch.bool)
    seen.fill_diagonal_(False)
    bias = torch.zeros(n, n).fill_diagonal_(2.5)
    return (q @ k.mT + bias).masked_fill(~seen, -1.0).softmax(-1) @ v
