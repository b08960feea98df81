"""neural_tangents.stax and its Kernel, imported on a current JAX and without TensorFlow.

neural-tangents 0.6.5 was written for JAX before 0.6. Its closed-form kernels work on newer releases. Its
package also imports empirical kernels, which need TensorFlow, tf2jax, and names that JAX has moved out of
jax.core. During the import, empty modules replace the empirical kernels, and jax.core gets its former names
back. Afterwards both are undone.
"""

import sys
from types import ModuleType

import jax.core
import jax.extend.core

EMPIRICAL = [
    f"neural_tangents.{part}"
    for part in ("experimental", "_src.empirical", "_src.monte_carlo", "_src.predict")
]
MOVED = [name for name in ("Jaxpr", "JaxprEqn", "Literal", "Var", "Primitive") if not hasattr(jax.core, name)]

for name in EMPIRICAL:
    sys.modules[name] = ModuleType(name)
    sys.modules[name].__getattr__ = lambda attribute: None
for name in MOVED:
    setattr(jax.core, name, getattr(jax.extend.core, name))
try:
    from neural_tangents import Kernel as InfiniteKernel  # noqa: F401, both are imported from here
    from neural_tangents import stax  # noqa: F401
finally:
    for name in EMPIRICAL:
        del sys.modules[name]
    for name in MOVED:
        delattr(jax.core, name)
