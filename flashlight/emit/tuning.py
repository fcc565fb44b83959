"""The table of tuned tiles, and the model that picks where it has no entry."""

from __future__ import annotations

from collections.abc import Mapping

Tile = tuple[int, int, int, int]
"""Rows and keys of a tile, warps, pipeline stages."""
Key = tuple[str, str, int, int]
"""Function, architecture, padded head width, bytes an element."""

MODEL = '''
def configuration(function, tensor, widest):
    """Rows and keys of a tile, warps and pipeline stages, for the tensor's device and dtype and the widest head."""
    return tile_for(function, architecture(tensor.device), padded(widest), tensor.element_size())


@functools.lru_cache(maxsize=None)
def tile_for(function, architecture, width, size):
    """A tuned tile; without one, a tile that fits registers (255 a thread) and shared memory.

    The accumulator and the scores lie in registers, the keys and values of each stage in shared memory. Before Hopper
    the operands of a product lie in registers too, hence fewer keys; AMD's 64 KiB are for one stage. Exact float32
    products unroll over the head dimension, which only small tiles bear.
    """
    if (function, architecture, width, size) in TILES:
        return TILES[function, architecture, width, size]
    if size > 2:
        return (32, 16, 4, 2) if width <= 128 else (16, 16, 8, 1)
    if width > 256:
        return 32, 16, 4, 1
    if architecture.startswith(("sm_9", "sm_10")):
        if width > 128:
            return 64, 32, 4, 2
        if architecture.startswith("sm_10"):
            return 128, 64, 8, 2
        return (64, 64, 4, 3) if width > 64 else (64, 128, 4, 2)
    if architecture.startswith("gfx"):
        return 64 if width > 128 else 128, 32 if width > 64 else 64, 4, 1
    if width > 128:
        return 64, 32, 8, 2
    return (64, 32, 4, 2) if width > 64 else (128, 64, 8, 2)


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
        if tensor.stride(-1) != 1 or tensor.data_ptr() % 16 or any(step * size % 16 for step in tensor.stride()[:-1]):
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
    lines += ["# rows and keys of a tile, warps, pipeline stages. `tile_for` says what serves without an entry."]
    if not tiles:
        return "\n".join([*lines, "TILES = {}"])
    entries = [f"    ({', '.join(map(_quoted, key))}): {tile!r}," for key, tile in sorted(tiles.items())]
    return "\n".join([*lines, "TILES = {", *entries, "}"])


def _quoted(part: object) -> str:
    return f'"{part}"' if isinstance(part, str) else str(part)
