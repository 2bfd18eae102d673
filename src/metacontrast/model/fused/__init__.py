"""Fused layers for a CPU: convolution, activation, batch norm, activation and 2×2 max-pooling as one operation.

**Contract.** `fuse(module)` replaces every `nn.Sequential` by one that runs such blocks as one. Names, parameters and
values stay: outputs, gradients and gradients of gradients equal those of the plain layers up to rounding, which
`tests/model/test_fused_blocks.py` holds in float64. Parameters may have a leading axis for tasks, whose images then
stand one after the other in the batch; statistics are each task's own.

**Equations.** In `block` (normalization and what stands around it, both derivatives) and `convolution` (a convolution
whose second derivative takes the same kernels as its first). `kernels` has the loops, compiled by Numba.

**Fallback.** The plain layers run on a GPU, under `torch.func` transforms and `torch.compile`, for other dtypes than
float32, float64 and bfloat16, for layers of another kind or with hooks, and with `Model(..., fused=False)`.
"""
