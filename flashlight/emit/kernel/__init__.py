"""One schedule to one Triton kernel, in layers: `place`, `ranges`, `steps`, `loops`, `results`, and `writer` on top."""
