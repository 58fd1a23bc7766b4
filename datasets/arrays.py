"""Array types used by most modules; each function documents the shapes."""

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]
"""RGB frames [F, H, W, 3], or one frame [H, W, 3]."""
Floats = NDArray[np.floating]
"""Floating-point numbers of any width."""
Floats32 = NDArray[np.float32]
Floats64 = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]
