"""Weight files without PyTorch: what torch.save wrote comes back, and what was made to do harm does nothing."""

import io
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from segjax.convert import pickles, read
from segjax.convert.read import read_arrays, read_weights
from tests.references.pytorch import torch

FORMATS = pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])


def save(path, content, is_zip, **kwargs):
    torch.save(content, path, _use_new_zipfile_serialization=is_zip, **kwargs)
    return path


def assert_same(array, tensor):
    tensor = tensor.detach()
    expected = tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if tensor.dtype == torch.bfloat16 else tensor
    assert array.shape == tuple(tensor.shape)
    assert array.dtype == np.asarray(expected).dtype
    np.testing.assert_array_equal(array, expected)


@FORMATS
def test_every_dtype_and_shape_comes_back(tmp_path, is_zip):
    names = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64 complex128".split()
    tensors = {name: (3 * torch.randn(2, 3)).to(getattr(torch, name)) for name in names}
    tensors |= {"scalar": torch.tensor(3.5), "empty": torch.zeros(0, 3), "long": torch.randn(40_000)}
    arrays = read_arrays(save(tmp_path / "w.pth", tensors, is_zip))
    assert arrays.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert_same(arrays[name], tensor)


@FORMATS
def test_views_and_shared_storages_come_back(tmp_path, is_zip):
    base = torch.arange(60.0).reshape(3, 4, 5)
    tensors = {
        "base": base,
        "transposed": base.permute(2, 0, 1),
        "part": base[1:, ::2, 3:],
        "column": base[:, 0, 0],
        "parameter": torch.nn.Parameter(base[2]),
        "channels_last": torch.randn(1, 2, 3, 3).contiguous(memory_format=torch.channels_last),
    }
    arrays = read_arrays(save(tmp_path / "w.pt", tensors, is_zip))
    for name, tensor in tensors.items():
        assert_same(arrays[name], tensor)
    assert np.shares_memory(arrays["base"], arrays["part"])
    with pytest.raises(ValueError, match="read-only"):
        arrays["base"][0, 0, 0] = 1


@FORMATS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_of_a_module(tmp_path, is_zip, protocol):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    arrays = read_arrays(save(tmp_path / "w.pth", module.state_dict(), is_zip, pickle_protocol=protocol))
    assert arrays.keys() == module.state_dict().keys()  # and the state dict's _metadata is passed over
    for name, tensor in module.state_dict().items():
        assert_same(arrays[name], tensor)


@FORMATS
def test_a_checkpoint_is_unwrapped_and_says_so(tmp_path, is_zip):
    module = torch.nn.DataParallel(torch.nn.Linear(3, 2))
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    content = {"epoch": 7, "best": 0.5, "arch": "x", "state_dict": module.state_dict(), "opt": optimizer.state_dict()}
    arrays, notes = read_weights(save(tmp_path / "c.pth.tar", content, is_zip))
    assert arrays.keys() == {"weight", "bias"}
    assert_same(arrays["weight"], module.module.weight)
    assert notes == (
        "the weights are those under 'state_dict'; 4 other entries are not used",
        "the prefix 'module.' of each name is taken off",
    )
    arrays, notes = read_weights(
        save(tmp_path / "d.ckpt", {"model": {"a": torch.ones(1), "_extra_state": None}}, is_zip)
    )
    assert list(arrays) == ["a"]
    assert notes[1] == "1 entries are no arrays and are not used"


def test_safetensors_and_npz(tmp_path):
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "params/b": np.ones(3, np.float64)}
    save_file(arrays | {"c": np.ones(2, ml_dtypes.bfloat16)}, tmp_path / "w.safetensors")
    np.savez(tmp_path / "w.npz", **arrays, f=np.asfortranarray(arrays["a"]))
    np.savez_compressed(tmp_path / "c.npz", **arrays)
    for name in ("w.safetensors", "w.npz", "c.npz"):
        found = read_arrays(tmp_path / name)
        for key, array in arrays.items():
            np.testing.assert_array_equal(found[key], array)
            assert found[key].dtype == array.dtype
    assert read_arrays(tmp_path / "w.safetensors")["c"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(read_arrays(tmp_path / "w.npz")["f"], arrays["a"])


def test_python_2_gave_an_ordered_dict_its_items(tmp_path):
    """OrderedDict.__reduce__ of Python 2: the class and a list of pairs, names as byte strings."""
    file = save(tmp_path / "w.pth", [["a", torch.ones(2)]], True)
    with zipfile.ZipFile(file) as archive:
        content = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    name = next(name for name in content if name.endswith("data.pkl"))
    body = content[name].replace(b"X\x01\x00\x00\x00a", b"U\x01a")
    assert body[:2] == b"\x80\x02" and body[-1:] == b"."
    content[name] = b"\x80\x02ccollections\nOrderedDict\n" + body[2:-1] + b"\x85R."
    write_zip(file, content)
    assert_same(read_arrays(file)["a"], torch.ones(2))


def write_zip(path, content, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def legacy(*parts, tail=b""):
    """The bytes of a legacy file with this content and these storage keys; bytes are pickles already."""
    start = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
    pickled = [part if isinstance(part, bytes) else pickle.dumps(part, 2) for part in (*start, *parts)]
    return b"".join(pickled) + tail


class Call:
    """Pickled as a call: what an attacker writes."""

    def __init__(self, function, *arguments, state=None):
        self.value = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.value


def os_system(command):
    import os

    return Call(os.system, command)


MARKER = "was_run"
ATTACKS = {
    "os.system": lambda path: pickle.dumps(os_system(f"touch {path}"), 2),
    "open": lambda path: pickle.dumps(Call(open, str(path), "w"), 2),
    "eval": lambda path: pickle.dumps(Call(eval, f"open({str(path)!r}, 'w')"), 2),
    "exec": lambda path: pickle.dumps(Call(exec, f"open({str(path)!r}, 'w')"), 2),
    "getattr": lambda path: pickle.dumps(Call(getattr, "x", "upper"), 2),
    "eval by STACK_GLOBAL": lambda path: pickle.dumps(Call(eval, f"open({str(path)!r}, 'w')"), 4),
    "dotted name": lambda path: b"\x80\x04\x8c\x0bcollections\x8c\x19OrderedDict.fromkeys.x.yz\x93.",
    "module of torch": lambda path: b"\x80\x02ctorch\nload\nX\x03\x00\x00\x00a.p\x85R.",
    "torch.hub": lambda path: b"\x80\x02ctorch.hub\nload\nX\x03\x00\x00\x00a/b\x85R.",
    "rebuild with a function": lambda path: b"\x80\x02ctorch._utils\n_rebuild_from_type_v2\nN\x85R.",
    "state of a tensor": lambda path: b"\x80\x02ctorch\nSize\nK\x01K\x02\x86\x85R}X\x01\x00\x00\x00aK\x01sb.",
    "setstate of a class": lambda path: pickle.dumps(Call(io.BytesIO, b"x", state=(b"y", 0, None)), 2),
    "a storage is called": lambda path: b"\x80\x02ctorch\nFloatStorage\nK\x05\x85R.",
    "INST": lambda path: b"(S'touch " + str(path).encode() + b"'\nios\nsystem\n.",
    "OBJ": lambda path: b"(cos\nsystem\nS'touch " + str(path).encode() + b"'\no.",
    "NEWOBJ": lambda path: b"\x80\x02cio\nBytesIO\n)\x81.",
    "EXT1": lambda path: b"\x80\x02\x82\x01.",
    "PERSID": lambda path: b"Pstorage\n.",
}


@pytest.mark.parametrize("name", ATTACKS)
@FORMATS
def test_nothing_that_a_file_names_is_run(tmp_path, name, is_zip):
    marker, path = tmp_path / MARKER, tmp_path / "w.pth"
    attack = ATTACKS[name](marker)
    if is_zip:
        write_zip(path, {"w/data.pkl": attack, "w/version": b"3\n"})
    else:
        path.write_bytes(legacy(attack, []))
    with pytest.raises(ValueError, match="can't be read"):
        read_arrays(path)
    assert not marker.exists()


def test_the_attacks_do_run_where_a_pickle_is_trusted(tmp_path):
    for number, name in enumerate(("os.system", "open", "eval", "exec", "eval by STACK_GLOBAL", "INST", "OBJ")):
        marker = tmp_path / str(number)
        pickle.loads(ATTACKS[name](marker))
        assert marker.exists(), name


def test_a_refused_name_is_said(tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(legacy(os_system("true"), []))
    with pytest.raises(ValueError, match=r"it names 'posix.system'.*nothing of it was run"):
        read_arrays(path)
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(ValueError, match=r"torch.nn.modules.linear.Linear.*state_dict"):
        read_arrays(path)


class Persistent(pickle.Pickler):
    def persistent_id(self, item):
        return item.value if isinstance(item, PersistentId) else None


class PersistentId:
    def __init__(self, *value):
        self.value = value


def tensor_file(path, *, count=4, offset=0, shape=(4,), strides=(1,), key="0", data=bytes(16), **replaced):
    """A zip file with one tensor of these facts."""
    storage = PersistentId("storage", torch.FloatStorage, key, "cpu", count)
    tensor = Call(torch._utils._rebuild_tensor_v2, storage, offset, shape, strides, False, None)
    stream = io.BytesIO()
    Persistent(stream, 2).dump({"a": replaced.get("tensor", tensor)})
    return write_zip(path, {"w/data.pkl": stream.getvalue(), "w/data/0": data})


def test_a_handmade_tensor_is_read(tmp_path):
    data = np.arange(4, dtype=np.float32).tobytes()
    arrays = read_arrays(tensor_file(tmp_path / "w.pth", data=data, shape=(2, 2), strides=(1, 2)))
    np.testing.assert_array_equal(arrays["a"], [[0, 2], [1, 3]])


@pytest.mark.parametrize(
    "facts",
    [
        dict(shape=(5,)),
        dict(offset=1),
        dict(strides=(2,)),
        dict(shape=(2, 2), strides=(1, 3)),
        dict(offset=-1, shape=(1,)),
        dict(strides=(-1,)),
        dict(shape=(-4,)),
        dict(shape=(4, 0), strides=(1,)),
        dict(shape=(2**40,), strides=(0,)),
        dict(shape=(2**40, 2**40), strides=(0, 0)),
        dict(shape=(0, 2**62), strides=(0, 0)),
        dict(shape=(True,)),
        dict(shape="4"),
        dict(shape=[4]),
        dict(shape=(4.0,)),
        dict(shape=(1,) * 65, strides=(1,) * 65),
        dict(count=5, shape=(5,)),
        dict(count=2**62),
        dict(count=-1),
        dict(count=True),
        dict(key="1"),
        dict(key="../version"),
        dict(data=bytes(15)),
        dict(tensor=PersistentId("storage", torch.FloatStorage, "0", "cpu")),
        dict(tensor=PersistentId("module", torch.FloatStorage, "0", "cpu", 4)),
        dict(tensor=PersistentId("storage", "torch.FloatStorage", "0", "cpu", 4)),
        dict(tensor=PersistentId("storage", torch.FloatStorage, "0", "cpu", 4, ("0", 1, 2))),
        dict(tensor=Call(torch._utils._rebuild_tensor_v2, "storage", 0, (4,), (1,), False, None)),
    ],
    ids=lambda facts: " ".join(f"{key}={str(value)[:30]}" for key, value in facts.items()),
)
def test_a_tensor_outside_of_its_storage_is_refused(tmp_path, facts):
    with pytest.raises(ValueError, match="can't be read"):
        read_arrays(tensor_file(tmp_path / "w.pth", **facts))


def test_flags_that_change_the_values_are_refused(tmp_path):
    with pytest.raises(ValueError, match="conj or neg"):
        read_arrays(save(tmp_path / "w.pth", {"a": torch.tensor([1 + 2j]).conj()}, True))


def test_compressed_and_damaged_archives_are_refused(tmp_path):
    content = {"w/data.pkl": pickle.dumps({}, 2), "w/data/0": bytes(1000)}
    path = write_zip(tmp_path / "w.pth", content, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="stored as it is"):
        read_arrays(path)
    save(path, {"a": torch.arange(1000.0)}, True)
    data = bytearray(path.read_bytes())
    data[data.index(np.float32(500).tobytes() + np.float32(501).tobytes())] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        read_arrays(path)
    write_zip(path, {"w/other": b""})
    with pytest.raises(ValueError, match="one data.pkl"):
        read_arrays(path)


def test_npz_that_would_grow_or_hold_objects_is_refused(tmp_path):
    path = tmp_path / "w.npz"
    np.savez_compressed(path, a=np.zeros(10_000_000))
    with pytest.raises(ValueError, match="16 times as large"):
        read_arrays(path)
    np.savez(path, a=np.array([Call(print)], object))
    with pytest.raises(ValueError, match="must hold numbers"):
        read_arrays(path)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**40,)})
    write_zip(path, {"a.npy": header.getvalue() + bytes(16)})
    with pytest.raises(ValueError, match="can't be read"):
        read_arrays(path)
    # An entry that announces fewer bytes than its compressed stream holds.
    write_zip(path, {"a.npy": bytes(50_000_000)}, zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    position = data.index(b"PK\x01\x02") + 24
    data[position : position + 4] = struct.pack("<I", 128)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="can't be read"):
        read_arrays(path)


@pytest.mark.parametrize(
    "body",
    [
        b"r\xff\xff\xff\x7f",  # a memo of 2**31 places
        b"\x8e" + b"\xff" * 7 + b"\x7f",  # BINBYTES8 of 2**63 bytes
        b"\x96" + b"\xff" * 7 + b"\x7f",  # BYTEARRAY8
        b"\x8b\xff\xff\xff\x7f",  # LONG4
        b"X\xff\xff\xff\xff",
        b"(" * 1000 + b"t",
        b"K\x01K\x02K\x03",
        b"}K\x01N",
    ],
    ids=lambda body: body[:5].hex(),
)
def test_announced_sizes_are_not_believed(tmp_path, body):
    path = tmp_path / "w.pth"
    path.write_bytes(legacy(b"\x80\x02]" + body + b".", []))
    with pytest.raises(ValueError, match="can't be read"):
        read_arrays(path)


def doubling(levels, key=b""):
    """A tuple of a tuple of ..., 2**levels ends in a few bytes: to hash, print or copy it would take for ever."""
    return b"\x80\x02K\x01" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(levels)) + key


@pytest.mark.parametrize(
    "body",
    [
        doubling(60) + b".",
        b"\x80\x02}" + doubling(60)[2:] + b"N" + b"s.",
        doubling(60) + b"q\x60h\x60\x93.",
        b"\x80\x02ctorch\n_x\n.",
        b"\x80\x02}X\x01\x00\x00\x00a" + doubling(60)[2:] + b"s.",
    ],
    ids=["value", "key", "global", "name", "entry"],
)
def test_a_pickle_that_doubles_itself_ends_at_once(tmp_path, body):
    path = tmp_path / "w.pth"
    path.write_bytes(legacy(body, []))
    with pytest.raises(ValueError, match="can't be read"):
        read_arrays(path)


def test_copies_of_one_list_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, "MAX_STEPS", 10_000)
    pairs = b"](" + b"K\x01N\x86" * 500 + b"eq\x00"
    body = b"\x80\x02" + pairs + b"ccollections\nOrderedDict\nq\x01" + b"h\x01h\x00\x85R" * 100 + b"."
    path = tmp_path / "w.pth"
    path.write_bytes(legacy(body, []))
    with pytest.raises(ValueError, match="10000 steps"):
        read_arrays(path)


def test_content_and_names_are_checked(tmp_path):
    path = tmp_path / "w.pth"
    for content, message in (
        ([1, 2], "it holds a list"),
        ({"epoch": 1}, "it holds 'epoch'"),
        (torch.ones(2), "it holds a tensor"),
        ({"a\n\x1b[2J": torch.ones(2)}, "printable"),
        ({3: torch.ones(2)}, "printable"),
    ):
        with pytest.raises(ValueError, match=message):
            read_arrays(save(path, content, True))
    with pytest.raises(FileNotFoundError, match="none.pth"):
        read_arrays(tmp_path / "none.pth")
    (tmp_path / "w.h5").write_bytes(b"")
    with pytest.raises(ValueError, match=r"must end in one of .safetensors, .npz, .pth"):
        read_arrays(tmp_path / "w.h5")


def examples(tmp_path):
    tensors = {"a": torch.arange(12.0).reshape(3, 4), "b": torch.ones(2).bfloat16()}
    save(tmp_path / "zip.pth", tensors, True)
    save(tmp_path / "legacy.pth", tensors, False)
    np.savez_compressed(tmp_path / "x.npz", a=np.ones(3))
    save_file({"a": np.ones(3, np.float32)}, tmp_path / "x.safetensors")
    return [tmp_path / name for name in ("zip.pth", "legacy.pth", "x.npz", "x.safetensors")]


def test_a_file_that_was_cut_is_refused_wherever(tmp_path):
    for path in examples(tmp_path):
        data = path.read_bytes()
        for length in range(0, len(data), max(1, len(data) // 60)):
            path.write_bytes(data[:length])
            with pytest.raises(ValueError, match="can't be read"):
                read_arrays(path)


RELAXED = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@RELAXED
@given(st.data())
def test_any_damage_gives_arrays_or_a_value_error(tmp_path, data):
    path = data.draw(st.sampled_from(examples(tmp_path)))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        arrays = read_arrays(path)
    except ValueError:
        return
    for array in arrays.values():
        assert array.nbytes <= read.MAX_RATIO * len(content)
        array.sum()


@RELAXED
@given(st.binary(max_size=200), st.sampled_from([".pth", ".npz", ".safetensors"]), st.booleans())
def test_random_bytes_give_a_value_error(tmp_path, content, suffix, inside):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(legacy(b"\x80\x02" + content + b".", []) if inside and suffix == ".pth" else content)
    with pytest.raises(ValueError, match=r"can't be read"):
        read_arrays(path)
