"""The table of tuned tiles, and the model that picks where it has no entry."""

from __future__ import annotations

Tile = tuple[int, int, int, int]
"""Rows and keys of a block, warps, pipeline stages."""

MODEL = '''
def configuration(tensor, widest):
    """Rows and keys of a tile, warps and pipeline stages, for the tensor's device and dtype and the widest head."""
    return tile_for(architecture(tensor.device), padded(widest), tensor.element_size())


@functools.lru_cache(maxsize=None)
def tile_for(architecture, width, size):
    """A tuned tile; without one, a tile whose keys and values fit twice into 64 KiB of shared memory."""
    if (architecture, width, size) in TILES:
        return TILES[architecture, width, size]
    row_bytes = width * size
    keys = max(16, min(64, 16384 // row_bytes))
    rows = 128 if row_bytes <= 256 else 64 if row_bytes <= 512 else 32
    return rows, keys, 8 if rows * width >= 128 * 128 else 4, 2 if row_bytes <= 512 else 1


@functools.lru_cache(maxsize=None)
def architecture(device):
    """The device's architecture as the table names it, e.g. sm_90."""
    if device.type != "cuda" or torch.version.hip:
        return device.type
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


def precision(tensor):
    """How float32 matrix products are computed, as PyTorch is set to compute them."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
'''


def table(tiles: dict[tuple[str, int, int], Tile]) -> str:
    """The table as source."""
    lines = ["# architecture, padded head dimension, bytes an element: rows and keys of a tile, warps, pipeline stages"]
    lines.append("TILES = {")
    lines += [f"    {key!r}: {tile!r}," for key, tile in sorted(tiles.items())]
    return "\n".join([*lines, "}"])


DEFAULT_TILES: dict[tuple[str, int, int], Tile] = {
    ("sm_90", 64, 2): (64, 128, 4, 2),
    ("sm_90", 128, 2): (64, 64, 4, 3),
}
