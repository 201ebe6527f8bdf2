"""Small exact solvers on the Gramian of K task gradients, in float64 with NumPy and SciPy.

Import what you need from the modules: the package itself imports neither.
"""
