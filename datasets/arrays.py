"""Types of the arrays that most modules pass on; shapes are said where they are passed."""

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]
"""Pictures [F, H, W, 3] in RGB, or one [H, W, 3]."""
Floats = NDArray[np.floating]
"""Real numbers of any width."""
Floats32 = NDArray[np.float32]
Floats64 = NDArray[np.float64]
