"""The fully connected CRF (Kraehenbuehl and Koltun 2011) on the device, differentiable.

filters.py: Gaussian kernels over the pixels, exact, on the permutohedral lattice, or in a window.
permutohedral.py, hash_table.py: the lattice. mean_field.py: parameters, checks of the input, inference.
"""

from segjax.crf.filters import choose_filter
from segjax.crf.mean_field import CRFParams, check_inputs, mean_field, mean_field_logits

__all__ = ["CRFParams", "check_inputs", "choose_filter", "mean_field", "mean_field_logits"]
