"""neural-tangents' `stax` on a current JAX, without TensorFlow: the one place that knows how.

neural-tangents 0.6.5 was written for JAX before 0.6. Its closed-form kernels work on newer releases, but its package also imports
empirical kernels, which need TensorFlow, tf2jax and names that have left jax.core. During the import, empty modules stand for the
empirical parts, and jax.core has its former names. Both are undone afterwards.
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
    from neural_tangents import stax  # noqa: F401, what others import from here
finally:
    for name in EMPIRICAL:
        del sys.modules[name]
    for name in MOVED:
        delattr(jax.core, name)
