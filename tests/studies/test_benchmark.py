"""Statistics and FLOPs by hand, both sides' steps, the table, and the main as a process."""

import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.digit_scenes import mask2former
from segjax import build_benchmark
from segjax.core import config as config_lib
from segjax.core.validation import find_problems
from segjax.models import build_model
from segjax.models.layers.attention import attention as attend
from segjax.studies import benchmark, profile, pytorch
from segjax.studies.flops import contraction_flops
from segjax.studies.profile import Event
from tests.process import SMALL, run
from tests.studies.test_plan import tiny

NHWC = ("NHWC", "HWIO", "NHWC")


def flops(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return contraction_flops(jax.jit(function).trace(*arguments).jaxpr)


def convolution(image, kernel, strides=(1, 1), padding="SAME", **options):
    return jax.lax.conv_general_dilated(image, kernel, strides, padding, dimension_numbers=NHWC, **options)


def test_runs_take_turns_and_each_has_the_time_of_its_own_steps():
    now, log = [0.0], []

    def taking(name, seconds):
        def run(steps):
            log.append((name, steps))
            now[0] += steps * seconds

        return run

    runs = {"a": taking("a", 1.0), "b": taking("b", 3.0)}
    times = benchmark.alternate(runs, steps=5, block=2, clock=lambda: now[0])
    assert times == {"a": [1.0] * 3, "b": [3.0] * 3}
    assert log == [("a", 2), ("b", 2), ("b", 2), ("a", 2), ("a", 2), ("b", 2)]


def test_statistics_by_hand():
    ours = benchmark.spread([4.0, 1.0, 2.0, 3.0])
    assert ours == {"median": 2.5, "min": 1.0, "quartiles": [1.75, 3.25], "times": 4}
    assert benchmark.ratios(ours, benchmark.spread([5.0])) == {"median": 0.5, "min": 0.2}


def test_flops_of_products():
    assert flops(jnp.matmul, (5, 7), (7, 3)) == 2 * 5 * 7 * 3
    assert flops(lambda a, b: jnp.einsum("nqd,nkd->nqk", a, b), (2, 5, 8), (2, 6, 8)) == 2 * 2 * 5 * 6 * 8
    step = jax.grad(lambda w, x: jnp.square(x @ w).sum())
    assert flops(step, (7, 3), (5, 7)) == 2 * (2 * 5 * 7 * 3)  # forward, and the gradient of w alone


def test_flops_of_convolutions_by_hand():
    image, kernel = (2, 8, 9, 4), (3, 3, 4, 6)
    inside = functools.partial(convolution, padding="VALID")
    assert flops(inside, image, kernel) == 2 * 2 * (6 * 7) * 9 * 4 * 6
    # With zeros around it, the outer rows and columns have two of three rows or columns of the kernel.
    assert flops(convolution, image, kernel) == 2 * 2 * (3 * 8 - 2) * (3 * 9 - 2) * 4 * 6
    strided = functools.partial(convolution, strides=(2, 2), padding="VALID")
    assert flops(strided, image, kernel) == 2 * 2 * (3 * 4) * 9 * 4 * 6
    grouped = functools.partial(convolution, padding="VALID", feature_group_count=2)
    assert flops(grouped, image, (3, 3, 2, 6)) == 2 * 2 * (6 * 7) * 9 * 2 * 6
    # 2x2 at stride 2, transposed: each output pixel has one pixel of the input, and the zeros between are not counted.
    transposed = functools.partial(jax.lax.conv_transpose, strides=(2, 2), padding="VALID", dimension_numbers=NHWC)
    assert flops(transposed, image, (2, 2, 4, 6)) == 2 * 2 * (16 * 18) * 4 * 6
    both = jax.grad(lambda image, kernel: jnp.square(inside(image, kernel)).sum(), (0, 1))
    assert flops(both, image, kernel) == 3 * flops(inside, image, kernel)


@pytest.mark.parametrize("strides", [(1, 1), (2, 1)])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 3)])
def test_flops_of_convolutions_are_those_of_xla(strides, dilation):
    function = functools.partial(convolution, strides=strides, rhs_dilation=dilation)
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 8, 9, 4), (3, 3, 4, 6))]
    traced = jax.jit(function).trace(*shapes)
    assert contraction_flops(traced.jaxpr) == traced.lower().cost_analysis()["flops"]


def test_flops_of_loops_branches_and_devices(one_device_mesh):
    w, product = (4, 4), 2 * 4**3
    assert flops(lambda w: jax.lax.scan(lambda x, _: (x @ w, None), w, length=6)[0], w) == 6 * product
    assert flops(lambda w: jax.checkpoint(jax.jit(jnp.matmul))(w, w), w) == product

    def branch(w):
        return jax.lax.cond(w[0, 0] > 0, lambda w: w @ w @ w, lambda w: w, w)

    assert flops(branch, w) == 2 * product

    def by_platform(w):
        return jax.lax.platform_dependent(w, cpu=lambda w: w @ w @ w, default=lambda w: w @ w)

    gradient = jax.grad(lambda w: by_platform(w).sum())
    assert flops(by_platform, w) == product
    assert flops(gradient, w) == 3 * product

    mesh = jax.make_mesh((4,), ("devices",), devices=jax.devices()[:4], axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("devices")
    mapped = jax.shard_map(lambda x, w: x @ w, mesh=mesh, in_specs=(spec, None), out_specs=spec)
    assert flops(mapped, (8, 4), w) == 2 * 8 * 4 * 4


def test_flops_of_cudnns_attention_are_those_of_the_plain_form(monkeypatch):
    """It is traced here, and not compiled; JAX asks for cuDNN's version and the card before."""
    from jax._src.cudnn import fused_attention_stablehlo

    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(fused_attention_stablehlo, "check_compute_capability", lambda _: True)
    query, key = (2, 24, 3, 8), (2, 40, 3, 8)

    def attention(form, query, key, value):
        query, key, value = (array.astype(jnp.bfloat16) for array in (query, key, value))
        return attend(query, key, value, form=form).sum()

    for change in (lambda f: f, lambda f: jax.grad(f, (0, 1, 2))):
        theirs, ours = (change(functools.partial(attention, form)) for form in ("cudnn", "whole"))
        assert flops(theirs, query, key, key) == flops(ours, query, key, key) > 0


def test_own_time_of_operations_by_hand():
    stream = [Event("while", 0, 100), Event("dot", 10, 40), Event("add", 15, 20), Event("dot", 50, 60)]
    assert profile.own_times(stream) == {"while": (60, 1), "dot": (35, 2), "add": (5, 1)}
    assert profile.busy([[Event("a", 0, 10), Event("b", 30, 40)], [Event("c", 5, 20)]]) == (30, 40)
    rows = profile.operations([stream, [Event("dot", 0, 100)]], {"dot": "UNet/down_0/dot_general"})
    assert [(row["kind"], row["seconds"], row["calls"]) for row in rows] == [
        ("dot_general", pytest.approx(135e-9), 3),
        ("while", pytest.approx(60e-9), 1),
        ("add", pytest.approx(5e-9), 1),
    ]


def test_own_time_of_operations_that_overlap():
    """As on a stream of a GPU whose kernels begin before the last one ends."""
    assert profile.own_times([Event("a", 0, 10), Event("b", 5, 30)]) == {"a": (5, 1), "b": (25, 1)}


def test_a_profile_without_operations_says_so():
    assert profile.busy([]) == (0, 0)
    assert "recorded no operation" in profile.profile_table([], {})


def test_a_profile_names_the_operations_of_a_program(tmp_path):
    def layer(x):
        with jax.named_scope("my_layer"):
            return jnp.sin(x @ x)

    x = jnp.ones((256, 256))
    compiled = jax.jit(layer).lower(x).compile()

    def run(steps):
        for _ in range(steps):
            compiled(x).block_until_ready()

    streams = profile.trace_steps(run, 3, tmp_path)
    table = profile.profile_table(streams, profile.op_names(compiled.as_text()))
    assert "my_layer" in table and "%" in table


def test_compile_time_cold_and_out_of_the_cache():
    before = jax.config.jax_compilation_cache_dir
    x = jnp.arange(4.0)
    traced, compiled, seconds = benchmark.compile_cold_and_cached(lambda: jax.jit(lambda x: x * 3).trace(x))
    assert min(seconds.values()) > 0  # cached is None where the program did not come out of the cache
    np.testing.assert_array_equal(compiled(x), 3 * np.arange(4.0))
    assert contraction_flops(traced.jaxpr) == 0
    assert jax.config.jax_compilation_cache_dir == before


def test_what_is_compared_is_a_valid_config_of_cross_entropy_and_sgd():
    config = tiny().base
    same = build_benchmark.comparable(config)
    assert not find_problems(same)
    assert same.optimizer.name == "sgd" and same.loss.cross_entropy == 1.0 and not same.training.ema_decay
    assert "optimizer.name: 'muon' -> 'sgd'" in config_lib.differences(config, same)
    with pytest.raises(ValueError, match="mask2former classifies masks"):
        build_benchmark.comparable(mask2former.get_config())


def test_a_mode_that_there_is_not():
    with pytest.raises(ValueError, match="must be of train, infer; received 'train, fit'"):
        build_benchmark.measure(tiny().base, ["train", "fit"], steps=1, warmup=1, block=1, say=print)


def test_a_file_of_networks_that_is_not_there_or_has_none(tmp_path):
    pytest.importorskip("torch")
    with pytest.raises(FileNotFoundError, match="there is no"):
        pytorch.load_get_network(tmp_path / "none.py")
    (tmp_path / "good.py").write_text("def get_network(model_config, num_classes):\n    return num_classes\n")
    get_network = pytorch.load_get_network(tmp_path / "good.py")
    assert get_network({}, 3) == 3
    assert sys.modules[get_network.__module__].get_network({}, 4) == 4  # where torch.compile looks
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ValueError, match="must have get_network"):
        pytorch.load_get_network(tmp_path / "empty.py")


def test_a_library_that_is_not_installed(tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "file.py").write_text("import no_such_library")
    with pytest.raises(ValueError, match=r"file.py needs what is not installed .*no_such_library.*launch.sh test"):
        pytorch.load_get_network(tmp_path / "file.py")
    (tmp_path / "network.py").write_text("def get_network(model_config, num_classes):\n    import no_such_library\n")
    get_network = pytorch.load_get_network(tmp_path / "network.py")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"network.py needs what is not installed .*no_such_library"):
            get_network({}, 3)


def test_a_network_of_a_library_that_is_not_installed(monkeypatch):
    pytest.importorskip("torch")
    from experiments.benchmarks import pytorch_networks

    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match="torchvision is a reference and is not installed"):
        pytorch_networks.get_network(dict(name="fcn_resnet", backbone="resnet50", auxiliary=True), 3)


def test_a_step_of_pytorch_is_sgd_on_cross_entropy_of_the_labelled_pixels():
    torch = pytest.importorskip("torch")
    network = torch.nn.Conv2d(3, 4, 1)
    torch.nn.init.zeros_(network.weight)
    torch.nn.init.zeros_(network.bias)
    label = np.array([[[0, 0, 1, 255], [0, 2, 255, 255]]], np.uint8)  # 3, 1, 1 and 0 of 5 labelled pixels
    batch = {"image": np.zeros((1, 2, 4, 3), np.float32), "label": label}
    options = dict(platform="cpu", dtype="float32", compiled=False, auxiliary_weight=0.4, learning_rate=0.5)
    pytorch.build_run(network, batch, mode="infer", momentum=0.9, **options)(2)
    assert not network.training and not network.bias.any()
    pytorch.build_run(network, batch, mode="train", momentum=0.9, **options)(1)
    gradient = 1 / 4 - np.array([3, 1, 1, 0]) / 5  # of zero logits: softmax minus the share of the class
    np.testing.assert_allclose(network.bias.detach().numpy(), -0.5 * gradient, atol=1e-6)
    assert network.training


def test_torchvisions_auxiliary_head_rests_in_inference_and_those_of_others_stay():
    torch = pytest.importorskip("torch")
    from experiments.benchmarks.pytorch_networks import get_network
    from tests.references.pspnet import PSPNet

    batch = {"image": np.zeros((2, 33, 33, 3), np.float32), "label": np.zeros((2, 33, 33), np.uint8)}
    options = dict(platform="cpu", dtype="float32", compiled=False, auxiliary_weight=0.4, learning_rate=0.1)
    fields = dict(name="fcn_resnet", backbone="resnet50", auxiliary=True)
    for mode, heads in (("train", {"out", "aux"}), ("infer", {"out"})):
        network = get_network(fields, 3)
        pytorch.build_run(network, batch, mode=mode, momentum=0.9, **options)(1)
        assert set(network(torch.zeros(2, 3, 33, 33))) == heads
    network = PSPNet(3)
    pytorch.build_run(network, batch, mode="infer", momentum=0.9, **options)(1)
    assert network.aux_classifier is not None


def test_networks_of_pytorch_are_found_by_the_fields_of_ours():
    pytest.importorskip("torch")
    from experiments.benchmarks.pytorch_networks import get_network

    fields = dict(width=4, depth=2, padding="same", norm="batch", dropout=0.0)
    ours = build_model("unet", num_classes=5, **fields)
    shapes = jax.eval_shape(ours.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
    network = get_network({"name": "unet", "dtype": "bfloat16", **fields}, 5)
    assert pytorch.count_parameters(network) == sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
    with pytest.raises(ValueError, match="any width, any depth"):
        get_network({"name": "unet", **fields, "norm": "none"}, 5)
    with pytest.raises(ValueError, match="there are attention_unet, "):
        get_network({"name": "crf_rnn"}, 5)


def test_the_table_says_what_was_measured_and_what_failed():
    step = {"median": 0.5, "min": 0.25, "quartiles": [0.4, 0.75], "times": 3}
    sides = {
        "segjax": {"params": 10, "step": step, "images_per_second": 4.0},
        "pytorch eager": {"params": 11, "step": step, "images_per_second": 4.0, "ratios": {"median": 1.0, "min": 0.8}},
        "torch.compile": {"params": 11, "failed": "RuntimeError: no compiler"},
    }
    mode = {"compile": {"trace": 1.0, "cold": 2.0, "cached": None}, "flops": 2e9, "fraction": 0.25, "waiting": 0.0123}
    mode |= {"pipeline_images_per_second": 3.5, "pipeline_steps": 7, "compiled_memory_bytes": 2**20}
    report = {"model": "unet", "params": 10, "dtype": "float32", "dataset": "camvid train", "batch": [2, 8, 8, 3]}
    report |= {"devices": 1, "device_kind": "cpu", "matrix_rate": 16e9, "pytorch": {"threads": 2}}
    report["modes"] = {"train": mode | {"peak_memory_bytes": 2**21, "sides": sides}}
    text = benchmark.table(report)
    lines = [line.split() for line in text.splitlines()]
    assert ["pytorch", "eager", "500.0", "250.0", "400.0", "to", "750.0", "4.0", "1.00", "0.80"] in lines
    assert ["torch.compile", *"-" * 6] in lines
    for words in (
        "torch.compile failed: RuntimeError: no compiler",
        "not from the cache",
        "2.00 GFLOP a step in products and convolutions: 25.0 % of the matrix rate",
        "waiting for data 1.23 % of the time (over 7 steps)",
        "pytorch eager has 11, ours 10",
        "1 MiB by the compiled program, peak so far 2 MiB",
        "threads 2",
    ):
        assert words in text


ARGUMENTS = [argument for argument in SMALL if "training" not in argument and "evaluation" not in argument]
NETWORKS = """
import torch

def get_network(model_config, num_classes):
    assert model_config["name"] == "unet" and model_config["width"] == 4
    return torch.nn.Conv2d(3, num_classes, 1)
"""


@pytest.mark.slow
def test_the_main_measures_a_config_and_profiles_it(prepared_dir, tmp_path):
    output = tmp_path / "speed.json"
    options = ["--steps=2", "--warmup=1", f"--output={output}", f"--profile={tmp_path / 'profile'}"]
    printed = run("benchmark", *ARGUMENTS, f"--config.data.dir={prepared_dir}", *options)
    report = json.loads(output.read_text())
    assert set(report["modes"]) == {"train", "infer"} and report["batch"] == [4, 32, 32, 3]
    for found in report["modes"].values():
        step = found["sides"]["segjax"]["step"]
        assert step["times"] == 2 and 0 < step["min"] <= step["median"]
        assert found["flops"] > 0 and found["compiled_memory_bytes"] > 0 and found["compile"]["cached"] > 0
        assert found["fraction"] == pytest.approx(found["flops"] / step["median"] / report["matrix_rate"])
    assert report["modes"]["train"]["flops"] > 2 * report["modes"]["infer"]["flops"]
    assert 0 <= report["modes"]["train"]["waiting"] < 1
    assert "waiting for data" in printed and "profile of infer" in printed and "conv_general_dilated" in printed


@pytest.mark.slow
def test_the_main_against_a_network_of_pytorch(prepared_dir, tmp_path):
    pytest.importorskip("torch")
    networks, output = tmp_path / "networks.py", tmp_path / "speed.json"
    networks.write_text(NETWORKS)
    options = ["--steps=2", "--warmup=1", "--mode=train", f"--output={output}", "--against=pytorch"]
    options += [f"--pytorch_networks={networks}", "--notorch_compile"]
    printed = run("benchmark", *ARGUMENTS, f"--config.data.dir={prepared_dir}", *options)
    sides = json.loads(output.read_text())["modes"]["train"]["sides"]
    ours, theirs = sides["segjax"]["step"], sides["pytorch eager"]["step"]
    assert sides["pytorch eager"]["ratios"] == {key: ours[key] / theirs[key] for key in ("median", "min")}
    assert "changed for the comparison: optimizer.name: 'muon' -> 'sgd'" in printed
    assert "parameters differ: pytorch eager has 44" in printed
