"""What a compiled program says of itself, for programs small enough to be counted by hand; and for other backends'
ways of writing them, which this machine's compiler does not use."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from segjax.core import program

P = PartitionSpec
MESH = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
X = jax.ShapeDtypeStruct((8, 16), jnp.float32)


def compiled(function, into, out, *arguments):
    mapped = jax.shard_map(function, mesh=MESH, in_specs=into, out_specs=out, check_vma=False)
    return jax.jit(mapped).lower(*arguments or (X,)).compile()


def exchanges(*arguments):
    found = program.collectives(compiled(*arguments).as_text())
    return sorted((each.kind, each.size, each.group, each.times, each.exact) for each in found)


def psum(axes):
    return partial(jax.lax.psum, axis_name=axes)


RING = [(0, 1), (1, 2), (2, 3), (3, 0)]


@pytest.mark.parametrize(
    ("function", "into", "out", "expected"),
    [
        (psum(("a", "b")), P(("a", "b")), P(), ("all-reduce", 1 * 16 * 4, 8)),
        (psum("b"), P("b"), P(), ("all-reduce", 2 * 16 * 4, 4)),
        (psum("a"), P("b"), P("b"), ("all-reduce", 2 * 16 * 4, 2)),
        (partial(jax.lax.all_gather, axis_name="a", tiled=True), P("a"), P(), ("all-gather", 8 * 16 * 4, 2)),
        (
            partial(jax.lax.psum_scatter, axis_name="b", tiled=True),
            P(),
            P("b"),
            ("reduce-scatter", 8 * 16 * 4, 4),
        ),
        (
            partial(jax.lax.ppermute, axis_name="b", perm=RING),
            P("b"),
            P("b"),
            ("collective-permute", 2 * 16 * 4, 2),
        ),
        (
            partial(jax.lax.all_to_all, axis_name="b", split_axis=1, concat_axis=0, tiled=True),
            P("b"),
            P("b"),
            ("all-to-all", 2 * 16 * 4, 4),
        ),
    ],
    ids=["psum", "psum of rows", "psum of columns", "all_gather", "psum_scatter", "ppermute", "all_to_all"],
)
def test_each_kind(function, into, out, expected):
    kind, size, group = expected
    assert exchanges(function, into, out) == [(kind, size, group, 1, True)]


def test_two_arrays_of_two_types():
    """XLA makes one all-reduce of them, or two."""
    both = (jax.ShapeDtypeStruct((8, 3), jnp.float32), jax.ShapeDtypeStruct((8, 5), jnp.int8))
    found = exchanges(lambda x, y: jax.lax.psum((x, y), "b"), (P("b"), P("b")), (P(), P()), *both)
    assert {each[0] for each in found} == {"all-reduce"}
    assert sum(each[1] for each in found) == 2 * 3 * 4 + 2 * 5 * 1


def test_what_one_device_does_alone_is_no_communication():
    assert exchanges(lambda x: x @ x.T, P("b"), P("b")) == []
    alone = jax.make_mesh((1, 1), ("a", "b"), devices=jax.devices()[:1], axis_types=(AxisType.Auto,) * 2)
    mapped = jax.shard_map(psum("b"), mesh=alone, in_specs=P("b"), out_specs=P(), check_vma=False)
    assert program.collectives(jax.jit(mapped).lower(X).compile().as_text()) == []


def test_loops_count_each_pass():
    def nested(x):
        def outer(_, y):
            y = jax.lax.psum(y, "a") / 2
            return jax.lax.fori_loop(0, 3, lambda i, z: jax.lax.psum(z, "b") / (4 + i), y)

        return jax.lax.fori_loop(0, 5, outer, x)

    assert exchanges(nested, P("b"), P("b")) == [
        ("all-reduce", 2 * 16 * 4, 2, 5, True),
        ("all-reduce", 2 * 16 * 4, 4, 15, True),
    ]

    def scanned(x):
        return jax.lax.scan(lambda y, z: (jax.lax.psum(y, "b") + z, None), x, jnp.ones((7, 1, 1)))[0]

    assert exchanges(scanned, P("b"), P("b")) == [("all-reduce", 2 * 16 * 4, 4, 7, True)]


def test_a_loop_of_unknown_length_says_so():
    def until(x):
        return jax.lax.while_loop(lambda y: jnp.sum(y) < 1e6, lambda y: jax.lax.psum(y, "b"), x)

    assert exchanges(until, P("b"), P("b")) == [("all-reduce", 2 * 16 * 4, 4, 1, False)]


def test_a_branch_that_may_not_be_taken_says_so():
    def sometimes(x, flag):
        return jax.lax.cond(flag[0] > 0, lambda y: jax.lax.psum(y, "b"), lambda y: y, x)

    arguments = (X, jax.ShapeDtypeStruct((1,), jnp.int32))
    assert exchanges(sometimes, (P("b"), P()), P("b"), *arguments) == [("all-reduce", 2 * 16 * 4, 4, 1, False)]


def test_the_partitioner_writes_its_groups_otherwise():
    """A matrix product over a split axis, whose communication XLA inserts."""
    lies = [NamedSharding(MESH, P(None, "b")), NamedSharding(MESH, P("b", None))]
    jitted = jax.jit(lambda a, b: a @ b, in_shardings=lies, out_shardings=NamedSharding(MESH, P()))
    text = jitted.lower(X, jax.ShapeDtypeStruct((16, 32), jnp.float32)).compile().as_text()
    (found,) = program.collectives(text)
    assert (found.kind, found.size, found.group) == ("all-reduce", 8 * 32 * 4, 4)
    assert "dot_general" in found.source


TEMPLATE = """HloModule jit_f, is_scheduled=true, num_partitions=8

%wrapped (q: f32[16]) -> f32[4] {{
  %q = f32[16]{{0}} parameter(0)
  ROOT %inner = f32[4]{{0}} reduce-scatter(%q), replica_groups={{{{0,1,2,3}},{{4,5,6,7}}}}, to_apply=%add
}}

ENTRY %main (p: f32[4]) -> f32[4] {{
  %p = f32[4]{{0:T(256)}} parameter(0)
  {line}
}}
"""
GROUPS = "replica_groups=[2,4]<=[8]"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"%s = (f32[4]{{0}}, f32[16]{{0:T(256)S(1)}}) all-gather-start(%p), {GROUPS}", ("all-gather", 64, 4)),
        (f"%s = f32[4]{{0}} all-reduce-start(%p), channel_id=1, {GROUPS}, to_apply=%add", ("all-reduce", 16, 4)),
        ("%s = bf16[4]{0} all-reduce(%p), replica_groups={}, to_apply=%add", ("all-reduce", 8, 8)),
        ("%s = f32[4]{0} all-to-all(%p), replica_groups=mesh['x'=8] {'x':(2)4}", ("all-to-all", 16, 4)),
        (
            "%s = (f32[4]{0}, f32[4]{0}, u32[], u32[]) collective-permute-start(%p), source_target_pairs={{0,1},{1,0}}",
            ("collective-permute", 16, 2),
        ),
        (
            "%s = ((f32[16]{0}), f32[4]{0}, u32[]) async-start(%p), calls=%wrapped\n"
            "  %d = f32[4]{0} async-done(%s), calls=%wrapped",
            ("reduce-scatter", 64, 4),
        ),
        (
            "%s = (f8e4m3fn[3]{0}, pred[5]{0}, /*index=2*/s4[4]{0}, f32[]) all-to-all(%p, %p, %p, %p), " + GROUPS,
            ("all-to-all", 3 + 5 + 2 + 4, 4),
        ),
    ],
    ids=[
        "all-gather-start",
        "all-reduce-start",
        "all",
        "part of an axis",
        "collective-permute-start",
        "async",
        "types",
    ],
)
def test_forms_of_other_backends(line, expected):
    (found,) = program.collectives(TEMPLATE.format(line=line))
    assert (found.kind, found.size, found.group) == expected


def test_groups_of_an_unknown_form_are_an_error():
    with pytest.raises(ValueError, match="replica_groups"):
        program.collectives(TEMPLATE.format(line="%s = f32[4]{0} all-reduce(%p), replica_groups=<new>, to_apply=%add"))


def test_bytes_that_a_ring_sends():
    """Of 800 bytes over 8 devices, each sends 7 parts of 100 bytes, in an all-reduce twice."""
    sent = {kind: program.Collective(kind, 800, 8, 1, True, "").sent for kind in program.KINDS}
    assert sent["all-gather"] == sent["reduce-scatter"] == sent["all-to-all"] == 700
    assert sent["all-reduce"] == 1400
    assert sent["collective-permute"] == 800
    assert program.Collective("all-reduce", 800, 8, 3, True, "").sent == 3 * 1400


def test_memory_is_that_of_one_device():
    """An argument of 8x16 split over two devices, whose place the result takes, and one that is whole on each."""
    lies, whole = NamedSharding(MESH, P("a")), NamedSharding(MESH, P())
    add = jax.jit(
        lambda x, y: (x + y, y.sum(0)), in_shardings=(lies, whole), out_shardings=(lies, whole), donate_argnums=0
    )
    found = program.memory(add.lower(X, X).compile())
    pointers = 2 * 8  # the CPU's table of two results
    assert found.arguments == 8 * 16 * 4 // 2 + 8 * 16 * 4
    assert found.results == 16 * 4 + pointers
    assert found.total == found.arguments + found.results + found.temporary


@pytest.mark.parametrize(
    ("size", "options", "dimensions"),
    [
        ((3, 3), {"window_strides": (1, 1), "padding": "SAME"}, (16, 12)),
        ((3, 2), {"window_strides": (2, 3), "padding": ((1, 0), (2, 2))}, (15, 14)),
        ((3, 3), {"window_strides": (1, 1), "padding": "SAME", "rhs_dilation": (4, 2)}, (11, 9)),
        ((3, 3), {"window_strides": (1, 1), "padding": ((2, 1), (2, 1)), "lhs_dilation": (2, 2)}, (6, 7)),
        ((1, 1), {"window_strides": (1, 1), "padding": "VALID"}, (7, 5)),
    ],
    ids=["same", "stride", "dilation", "transposed", "pointwise"],
)
def test_products_of_a_loop_are_counted_each_pass(size, options, dimensions):
    """XLA counts the loop's body once; alone the body's convolution is what XLA counts."""
    image = jax.ShapeDtypeStruct((2, *dimensions, 6), jnp.float32)
    kernel = jax.ShapeDtypeStruct((*size, 6, 10), jnp.float32)

    def convolve(x, w):
        return jax.lax.conv_general_dilated(x, w, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)

    def repeated(x, w):
        def step(total, factor):
            return total + convolve(x * factor, w), None

        return jax.lax.scan(step, jnp.zeros(jax.eval_shape(convolve, x, w).shape), jnp.arange(5.0))[0]

    once = program.flops(jax.jit(convolve).lower(image, kernel).compile())
    text = (five := jax.jit(repeated).lower(image, kernel).compile()).as_text()
    assert re.search(r'"known_trip_count":\{"n":"5"\}', text)
    elementwise = 2 * np.prod(jax.eval_shape(convolve, image, kernel).shape) + np.prod(image.shape) + 100
    assert 5 * once <= program.flops(five, text) <= 5 * once + elementwise


def test_matrix_products_of_nested_loops():
    square = jax.ShapeDtypeStruct((32, 32), jnp.float32)

    def power(x, w):
        def inner(i, y):
            return jax.lax.fori_loop(0, 3, lambda j, z: z @ w, y) + i

        return jax.lax.fori_loop(0, 4, inner, x)

    found = program.flops(jax.jit(power).lower(square, square).compile())
    assert 12 * 2 * 32**3 <= found <= 12 * 2 * 32**3 + 4 * 32**2
