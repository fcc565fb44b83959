"""The table of tuned tiles, and the model that picks where it has no entry."""

from __future__ import annotations

from collections.abc import Mapping

Tile = tuple[int, int, int, int, bool]
"""Rows and keys of a tile, warps, pipeline stages, whether descriptors read it."""
Key = tuple[str, str, int, int]
"""Function, architecture, padded head width, bytes an element."""

MODEL = '''
def configuration(function, tensor, widest, accumulators, scores, blocks=2, float32=False):
    """How to tile for the tensor's device and dtype and the widest head; see `tile_for`."""
    chip, width, size = architecture(tensor.device), padded(widest), tensor.element_size()
    return tile_for(function, chip, width, size, accumulators, scores, blocks, float32)


@functools.lru_cache(maxsize=None)
def tile_for(function, architecture, width, size, accumulators, scores, blocks=2, float32=False):
    """Rows and keys of a tile, warps, pipeline stages, and whether tensor descriptors read the blocks of keys.

    A tuned tile; without one, a tile that fits registers (255 a thread) and shared memory. Registers hold, for each
    row, `accumulators` times the head's width and `scores` values a key. Shared memory holds, for each stage, `blocks`
    of keys or values, and half as many of rows. Before Hopper the operands of a product lie in registers too, hence
    fewer keys; AMD's 64 KiB are for one stage. Exact products of `float32` values unroll over the head dimension,
    which only small tiles bear.
    """
    if (function, architecture, width, size) in TILES:
        return TILES[function, architecture, width, size]
    hopper, blackwell = architecture.startswith("sm_9"), architecture.startswith("sm_10")
    amd = architecture.startswith("gfx")
    if size > 2 or float32:
        rows, keys, warps, stages = (32, 16, 4, 2) if width <= 128 else (16, 16, 8, 1)
    elif width > 256:
        rows, keys, warps, stages = 32, 16, 4, 1
    elif amd:
        rows, keys, warps, stages = 64 if width > 128 else 128, 32 if width > 64 else 64, 4, 1
    elif width > 128:
        rows, keys, warps, stages = 64, 32, 4 if hopper or blackwell else 8, 2
    elif hopper:
        rows, keys, warps, stages = (64, 64, 4, 3) if width > 64 else (64, 128, 4, 2)
    elif blackwell:
        rows, keys, warps, stages = 128, 64, 8, 2
    else:
        rows, keys, warps, stages = (64, 32, 4, 2) if width > 64 else (128, 64, 8, 2)
    lanes, budget = 64 if amd else 32, 160 if hopper else 128
    while rows * (accumulators * width + scores * keys) > budget * lanes * warps and max(rows, keys) > 16:
        if keys > 16 and scores * keys > accumulators * width:
            keys //= 2
        elif warps < 8:
            warps *= 2
        elif rows > 16:
            rows //= 2
        else:
            keys //= 2
    shared = {"sm_80": 163, "sm_90": 227, "sm_100": 227, "gfx942": 64}.get(architecture, 99) * 1024
    while blocks > 2 and (stages * keys + rows // 2) * blocks * width * size > shared * 0.6 and stages * keys > 16:
        keys, stages = (keys, stages - 1) if stages > 1 else (keys // 2, stages)
    return rows, keys, warps, stages, True


@functools.lru_cache(maxsize=None)
def architecture(device):
    """The device's architecture as the table names it, e.g. sm_90."""
    if device.type != "cuda":
        return device.type
    if torch.version.hip:
        return torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
    return "sm_{}{}".format(*torch.cuda.get_device_capability(device))


def describable(*tensors):
    """Whether tensor descriptors can read the tensors: on sm_90 and later, rows dense and 16-byte aligned."""
    if not architecture(tensors[0].device).startswith(("sm_9", "sm_1")):
        return False
    for tensor in tensors:
        size = tensor.element_size()
        *outer, inner = tensor.stride()
        if inner != 1 or tensor.data_ptr() % 16:
            return False
        for step in outer:
            if step * size % 16:
                return False
    triton.set_allocator(scratch)  # descriptors are written to memory by each program
    return True


def scratch(size, alignment, stream):
    """Memory for a launch, as Triton asks for it."""
    return torch.empty(size, dtype=torch.int8, device="cuda")


@functools.lru_cache(maxsize=None)
def padded(size):
    """The width of a tile that holds `size` elements: a power of two, as matrix instructions need."""
    return max(16, triton.next_power_of_2(size))


def approximate(tensor):
    """Whether a tanh with 11 good bits is enough: the results are rounded to bfloat16, which has 8."""
    return tensor.dtype == torch.bfloat16 and architecture(tensor.device).startswith("sm_")


def expandable(tensor):
    """Whether |a - b|² may be |a|² + |b|² - 2ab: what cancels is less than bfloat16 has rounded the points by."""
    return tensor.dtype == torch.bfloat16


def precision(tensor):
    """How float32 matrix products are computed, as PyTorch is set to compute them."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
'''


def table(tiles: Mapping[Key, Tile]) -> str:
    """The table as source."""
    lines = ["# Tiles that `flashlight tune` found: function, architecture, padded head dimension, bytes an element;"]
    lines += ["# rows and keys of a tile, warps, pipeline stages, descriptors. `tile_for` serves without an entry."]
    if not tiles:
        return "\n".join([*lines, "TILES = {}"])
    entries = [f"    ({', '.join(map(_quoted, key))}): {tile!r}," for key, tile in sorted(tiles.items())]
    return "\n".join([*lines, "TILES = {", *entries, "}"])


def _quoted(part: object) -> str:
    return f'"{part}"' if isinstance(part, str) else str(part)
