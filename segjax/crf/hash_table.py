"""Which of many integer keys are equal, found for all of them at once: a hash table without locks or host work.

Open addressing. In each round every key that has no place yet looks at the next slot of its own sequence; of those
that look at the same free slot, the key of lowest index takes it. Equal keys walk the same sequence, so they arrive
together, and keys are compared in full: there are no false matches. A round ends with at least one more key in the
table for each slot that was wanted, so the rounds end, after some five to ten of them where the table is half full.
"""

from functools import reduce

import flax
import jax
import jax.numpy as jnp

EMPTY = jnp.iinfo(jnp.int32).max


@flax.struct.dataclass
class HashTable:
    """Keys and where they live.

    Attributes:
      words: the keys, a tuple of int32 arrays [K]: key k is (words[0][k], words[1][k], ...).
      slots: int32 [a power of two, at least 2 K], the index of the key that lives there, or EMPTY.
    """

    words: tuple[jax.Array, ...]
    slots: jax.Array


def build(words: tuple[jax.Array, ...]) -> tuple[HashTable, jax.Array]:
    """A table of the keys, and for each key the lowest index of a key equal to it, int32 [K].

    Args:
      words: see `HashTable`; K from 1 to 2^29.
    """
    count = words[0].shape[0]
    size = 1 << (2 * count - 1).bit_length()
    own = jnp.arange(count, dtype=jnp.int32)
    first, step = _sequence(words, size)

    def one_round(state):
        slots, slot, _, _ = state
        free = slots.at[slot].get(mode="promise_in_bounds") == EMPTY
        slots = slots.at[jnp.where(free, slot, size)].min(own, mode="drop")
        owner = slots.at[slot].get(mode="promise_in_bounds")
        placed = _equal(words, _take(words, owner))
        return slots, jnp.where(placed, slot, (slot + step) & (size - 1)), owner, placed.all()

    state = one_round((jnp.full(size, EMPTY, jnp.int32), first, None, None))
    slots, _, owner, _ = jax.lax.while_loop(lambda state: ~state[3], one_round, state)
    return HashTable(words, slots), owner


def find(table: HashTable, words: tuple[jax.Array, ...]) -> jax.Array:
    """The lowest index of a key of the table that is equal, or -1: int32 of the shape of each of `words`."""
    size = table.slots.shape[0]
    first, step = _sequence(words, size)

    def one_round(state):
        slot, _, _ = state
        owner = table.slots.at[slot].get(mode="promise_in_bounds")
        absent = owner == EMPTY
        equal = ~absent & _equal(words, _take(table.words, jnp.where(absent, 0, owner)))
        done = absent | equal
        return jnp.where(done, slot, (slot + step) & (size - 1)), jnp.where(equal, owner, -1), done.all()

    state = one_round((first, None, None))
    return jax.lax.while_loop(lambda state: ~state[2], one_round, state)[1]


def _take(words, index):
    return tuple(word.at[index].get(mode="promise_in_bounds") for word in words)


def _equal(some, others):
    return reduce(jnp.logical_and, (a == b for a, b in zip(some, others, strict=True)))


def _sequence(words, size):
    """First slot and step; an odd step visits all of a power of two."""
    mixed = jnp.zeros(words[0].shape, jnp.uint32)
    for word in words:
        mixed = (mixed ^ word.astype(jnp.uint32)) * jnp.uint32(0x9E3779B1)
        mixed = mixed ^ (mixed >> 15)
    again = (mixed * jnp.uint32(0x85EBCA77)) ^ (mixed >> 13)
    return (mixed & jnp.uint32(size - 1)).astype(jnp.int32), ((again >> 3) | 1).astype(jnp.int32) & (size - 1)
