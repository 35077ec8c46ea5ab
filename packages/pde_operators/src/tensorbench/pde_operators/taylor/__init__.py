"""Taylor-mode automatic differentiation for torch: jets of any order, importable alone.

>>> from tensorbench.pde_operators import taylor
>>> u, (u1, u2, u3) = taylor.directional(model, x, v, order=3)        # derivatives along v, of a function or nn.Module
>>> u, (_, trace) = taylor.jet(model, x, [taylor.Coordinates(torch.arange(d)), None], collapse=True)   # the Laplacian
>>> taylor.partials(model, x, [(0, 0, 1), (1, 2)])                    # u_xxy and u_yt

Everything is batched over points and tangents and differentiable by an ordinary ``backward``.

===========================  ==================================================================================
kind                         operations (functions, methods and operators; ``supported_operations()`` lists all)
===========================  ==================================================================================
elementwise, recurrence      + - * / ** exp expm1 log log1p sin cos tan sinh cosh tanh sigmoid softplus logsigmoid
                             sqrt rsqrt reciprocal square erf gelu silu mish atan atan2 asin acos
elementwise, Faa di Bruno    asinh acosh atanh lgamma digamma erfc i0 … elu selu celu, and ``taylor.elementwise(f)``
piecewise                    abs relu leaky_relu prelu where maximum minimum clamp (relu warns for order 2 and above)
linear                       indexing reshape view flatten transpose permute sum mean cat stack split expand roll
                             cumsum conv1d conv2d conv_transpose2d …
product                      linear matmul einsum addmm baddbmm prod
composed                     softmax log_softmax logsumexp norm var std glu layer_norm batch_norm (of a model in eval)
primal only                  comparisons, shape, detach, zeros_like …
===========================  ==================================================================================

Without a rule, among others: amax and sort, fft, solve and inverse of matrices, attention. They raise
NotImplementedError, which names the operation.

Griewank and Walther, *Evaluating Derivatives* (2008), chapter 13; Bettencourt, Johnson, Duvenaud, *Taylor-mode
automatic differentiation for higher-order derivatives in JAX* (2019); the sparse jets of Shi, Hu, Lin, Kawaguchi,
*Stochastic Taylor Derivative Estimator* (NeurIPS 2024, arXiv 2412.00088).
"""

from tensorbench.pde_operators.taylor.elementwise import elementwise
from tensorbench.pde_operators.taylor.jets import Coordinates, directional, jet, partials
from tensorbench.pde_operators.taylor.partitions import ReadOut, find_jet, jet_coefficients, plan, read_out
from tensorbench.pde_operators.taylor.products import squared_norm
from tensorbench.pde_operators.taylor.table import supported_operations
from tensorbench.pde_operators.taylor.tensor import TaylorTensor

__all__ = [
    "Coordinates", "ReadOut", "TaylorTensor", "directional", "elementwise", "find_jet", "jet", "jet_coefficients",
    "partials", "plan", "read_out", "squared_norm", "supported_operations",
]  # fmt: skip
