"""Blocks that two or more papers use.

Where XLA's CPU back end is slow in the plain linen form, another form of the same function stands beside it,
and `jax.lax.platform_dependent` picks between them when the program is lowered: CPUs get the fast form, GPUs
and TPUs the plain one. Variables have linen's names and shapes either way, so weights do not depend on the
form.
"""
