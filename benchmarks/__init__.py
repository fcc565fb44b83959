"""Generated kernels measured beside FlexAttention, SDPA, torch.compile and eager. See docs/performance.md.

Nothing here imports flashlight's source stage, so that a machine with only torch and triton can run it.
"""
