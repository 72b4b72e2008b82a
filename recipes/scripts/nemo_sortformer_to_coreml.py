# /// script
# requires-python = ">=3.11"
# dependencies = ["coremltools==9.0", "numpy==2.3.5", "pyyaml==6.0.3"]
# ///
"""Convert a NeMo checkpoint of Streaming Sortformer (``.nemo``) to a Core ML pipeline, without NeMo and PyTorch.

Origins: Medennikov et al. 2025, "Streaming Sortformer: speaker cache-based online speaker diarization with arrival-time
ordering"; its encoder is Rekesh et al. 2023, "Fast Conformer with linearly scalable attention", with the relative
positions of Dai et al. 2019, "Transformer-XL", and behind it stand post-norm Transformer layers (Vaswani et al. 2017).
Names of parameters and of settings are those of NeMo's `SortformerEncLabelModel`.

The package is a pipeline of two ML programs with the interface that callers on Apple's devices know. In frames of
80 ms, with C, L and R for the chunk and its contexts, S for the speaker cache, F for the FIFO and T for all of them:

* the pre-encoder, float32: ``chunk`` [1, 8 (L + C + R), bands], ``spkcache`` [1, S, width] and ``fifo`` [1, F, width],
  each with its valid length, to ``chunk_pre_encoder_embs`` [1, L + C + R, width] and their length, and to the valid
  frames of cache, FIFO and chunk side by side [1, T, width];
* the head, float16: these to ``speaker_preds`` [1, T, speakers], probabilities, zero behind the valid frames, and to
  ``nest_encoder_embs`` [1, T, head width], which the encoder says of each frame, projected.

What depends on nothing but the length is computed here, in float64: batch norms become part of the convolutions before
them, and the relative positions are projected for each layer.

A ``.nemo`` is a tar archive of a config and of what ``torch.save`` writes: a zip archive of a pickle and of raw
storages. The pickle is read as data: nothing in it is called, and what names anything but tensors is refused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
import os
import pickletools
import re
import shutil
import sys
import tarfile
import tempfile
import uuid
import zipfile
import zlib
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import yaml

CONFIG, WEIGHTS = "model_config.yaml", "model_weights.ckpt"
MAX_CONFIG, MAX_WEIGHTS, MAX_PICKLE, MAX_MEMBERS = 4_000_000, 4_000_000_000, 64_000_000, 1000  # the first three: bytes
SUBSAMPLING, STAGES, FRAME_S = 8, 3, 0.08
NORM_EPS = 1e-5  # PyTorch's default, and what NeMo's layers have
FAR = -1e4  # NeMo's, for what attention must not see; float16 holds it
SYNTHETIC = "hubpub.synthetic"  # the mark of random weights goes with them
STORAGES = {
    "torch DoubleStorage": "<f8",
    "torch FloatStorage": "<f4",
    "torch HalfStorage": "<f2",
    "torch BFloat16Storage": "bfloat16",
    "torch LongStorage": "<i8",
}
DICT, TENSOR, PARAMETER = (
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
)

FloatArray = npt.NDArray[np.float32]
Shapes = dict[str, tuple[int, ...]]


class ConversionError(Exception):
    """The input is not what this script converts; the message is one line for the person who reads it."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


# ------------------------------------------------------------------------------------------------ reading a .nemo file


def unpack(path: Path, weights: IO[bytes]) -> dict[str, Any]:
    """Copy the weights of the archive ``path`` into the file ``weights``, and return the config.

    Raises:
        ConversionError: it is damaged, lacks one of the two, or holds what no checkpoint needs.
    """
    text = found = None
    try:
        with tarfile.open(path) as archive:
            for count, member in enumerate(archive, 1):
                name = PurePosixPath(member.name)
                if count > MAX_MEMBERS or name.is_absolute() or ".." in name.parts:
                    raise ConversionError(f"{path}: it holds {str(name)[:200]!r}, which leads out of it or is too much")
                if not (member.isfile() or member.isdir()):
                    raise ConversionError(f"{path}: {str(name)[:200]!r} is a link or a device")
                if str(name) == CONFIG and text is None:
                    text = _member(path, archive, member, MAX_CONFIG).read()
                elif str(name) == WEIGHTS and found is None:
                    found = _member(path, archive, member, MAX_WEIGHTS)
                    shutil.copyfileobj(found, weights, 1 << 20)
                    if weights.tell() != member.size:
                        raise ConversionError(f"{path}: {WEIGHTS} is cut off")
                elif str(name) in (CONFIG, WEIGHTS):
                    raise ConversionError(f"{path}: it holds {name} twice")
    except (tarfile.TarError, EOFError, zlib.error, ValueError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ConversionError(f"{path}: not a .nemo archive, or damaged: {error}") from error
    if text is None or found is None:
        raise ConversionError(f"{path}: it holds no {CONFIG if text is None else WEIGHTS}: not a NeMo checkpoint")
    try:
        config = yaml.safe_load(text.decode("utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConversionError(f"{path}: {CONFIG} is not YAML: {str(error)[:300]}") from error
    if not isinstance(config, dict):
        raise ConversionError(f"{path}: {CONFIG} is not a mapping")
    return config


def _member(path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo, most: int) -> IO[bytes]:
    content = archive.extractfile(member) if member.isfile() else None
    if content is None or member.size > most:
        raise ConversionError(f"{path}: {member.name} is no file of at most {most} bytes")
    return content


@dataclass(frozen=True)
class Call:
    """What a pickle would call, with what; never called here."""

    name: str
    arguments: Any


class State:
    """The tensors of a state dict by name, read one by one; every read is bounds-checked."""

    def __init__(self, file: IO[bytes], where: str) -> None:
        """Index the zip archive ``file``; raises ConversionError if it is damaged or of another kind."""
        self.where = where
        self._tensors: dict[str, Any] = {}
        try:
            self._size = file.seek(0, os.SEEK_END)
            self._archive = zipfile.ZipFile(file)
            pickles = [name for name in self._archive.namelist() if re.fullmatch(r"[^/]+/data\.pkl", name)]
            if len(pickles) != 1:
                raise ConversionError(f"{where}: not what torch.save writes: it holds {len(pickles)} data.pkl")
            self._folder = pickles[0].removesuffix("data.pkl")
            order = f"{self._folder}byteorder"
            if order in self._archive.namelist() and self._read(order, 16) != b"little":
                raise ConversionError(f"{where}: its numbers are not little-endian")
            document = values_of(self._read(pickles[0], MAX_PICKLE))
        except _DAMAGE as error:
            raise ConversionError(f"{where}: not what torch.save writes, or damaged: {error}") from error
        if isinstance(document, dict) and isinstance(document.get("state_dict"), dict):
            document = document["state_dict"]
        if not isinstance(document, dict):
            raise ConversionError(f"{where}: holds no state dict")
        for name, value in document.items():
            try:
                if isinstance(value, Call) and value.name == PARAMETER:
                    value = value.arguments[0]
                if not isinstance(name, str) or not isinstance(value, Call) or value.name != TENSOR:
                    raise TypeError
                self._tensors[name] = (*value.arguments[:4],)
                self.shape(name)
            except _DAMAGE as error:
                raise ConversionError(f"{where}: {str(name)[:200]!r} is not a tensor") from error

    def names(self) -> set[str]:
        """Those of all tensors."""
        return set(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """What the pickle says; `get` checks it against the bytes."""
        _, _, shape, _ = self._tensors[name]
        return (*shape,)

    def get(self, name: str) -> FloatArray:
        """A tensor as float32.

        Raises:
            ConversionError: its bytes are not there, or not finite.
        """
        try:
            (_, kind, key, *_), offset, shape, strides = self._tensors[name]
            dtype = np.dtype("<u2" if STORAGES[kind] == "bfloat16" else STORAGES[kind])
            numbers = (offset, *shape, *strides)
            if not isinstance(key, str) or not all(type(n) is int and n >= 0 for n in numbers):
                raise ValueError("its place in the file is not given in whole numbers")
            last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
            data = self._read(f"{self._folder}data/{key}", self._size)
            if 0 in shape or math.prod(shape) > len(data) or (last + 1) * dtype.itemsize > len(data):
                raise ValueError(f"shape {list(shape)} does not fit its {len(data)} bytes")
        except _DAMAGE as error:
            raise ConversionError(f"{self.where}: tensor {name} cannot be read: {error}") from error
        flat = np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype)[offset:]
        steps = [stride * dtype.itemsize for stride in strides]
        values = np.lib.stride_tricks.as_strided(flat, shape, steps, writeable=False)
        if STORAGES[kind] == "bfloat16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        found: FloatArray = np.ascontiguousarray(values, np.float32)
        if not np.isfinite(found).all():
            raise ConversionError(f"{self.where}: tensor {name} holds values that are not finite")
        return found

    def _read(self, name: str, most: int) -> bytes:
        """A member; PyTorch does not compress, so that none is larger than the file."""
        info = self._archive.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > most:
            raise ValueError(f"{name} is compressed or larger than {most} bytes")
        return self._archive.read(info)


_DAMAGE = (
    *(zipfile.BadZipFile, ValueError, IndexError, TypeError, KeyError, AttributeError, OSError),
    *(RuntimeError, EOFError, OverflowError, RecursionError, NotImplementedError, zlib.error),
)


def values_of(data: bytes) -> Any:
    """What a pickle would build, where calls are `Call` and classes are their names.

    Raises:
        ValueError: it is damaged, or does or names what no state dict needs.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    mark = object()

    def since_mark() -> list[Any]:
        at = len(stack) - 1 - stack[::-1].index(mark)
        items = stack[at + 1 :]
        del stack[at:]
        return items

    def last(count: int) -> list[Any]:
        if count > len(stack):
            raise ValueError("the pickle takes more than it has")
        return [stack.pop() for _ in range(count)][::-1]

    def known(name: str) -> str:
        if name not in (DICT, TENSOR, PARAMETER) and name not in STORAGES:
            raise ValueError(f"its pickle names {name[:200]!r}, which no state dict needs")
        return name

    for opcode, argument, _ in pickletools.genops(data):
        match opcode.name:
            case "PROTO" | "FRAME" | "BINPERSID":  # a persistent id is the description of a storage: it stays as it is
                pass
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "MARK":
                stack.append(mark)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(last(int(opcode.name[-1]))))
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "SETITEM" | "SETITEMS":
                items = since_mark() if opcode.name == "SETITEMS" else last(2)
                if isinstance(stack[-1], dict):
                    stack[-1].update(zip(items[0::2], items[1::2], strict=True))
            case "APPEND" | "APPENDS":
                items = since_mark() if opcode.name == "APPENDS" else last(1)
                if isinstance(stack[-1], list):
                    stack[-1].extend(items)
            case "GLOBAL":
                stack.append(known(argument))
            case "STACK_GLOBAL":
                stack.append(known(" ".join(map(str, last(2)))))
            case "REDUCE":
                name, arguments = last(2)
                stack.append({} if name == DICT else Call(known(str(name)), arguments))
            case "BUILD":  # the attributes of a dict, which say nothing of its tensors
                last(1)
            case "STOP":
                return stack.pop()
            case name if name.startswith(("BININT", "LONG", "BINFLOAT", "BINUNI", "SHORT_BINUNI")):
                stack.append(argument)
            case name:
                raise ValueError(f"its pickle does what no state dict needs ({name})")
    raise ValueError("its pickle has no end")


# -------------------------------------------------------------------------------------------------- what a config says

ENCODER, HEAD, MODULES, FRONT = "encoder", "transformer_encoder", "sortformer_modules", "preprocessor"

# What is built, by setting: NeMo's default where the config does not say it, and all values that mean the same here.
BUILT: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "streaming_mode": (False, (True,)),  # else the model wants its samples scaled by their maximum
    # The front end is the caller's: it gives log-mel features of 25 ms every 10 ms that are not normalised.
    f"{FRONT}.sample_rate": (16000, (16000,)),
    f"{FRONT}.window_size": (0.02, (0.025,)),
    f"{FRONT}.window_stride": (0.01, (0.01,)),
    f"{FRONT}.window": ("hann", ("hann",)),
    f"{FRONT}.n_fft": (None, (None, 512)),
    f"{FRONT}.normalize": ("per_feature", ("NA", "None", "none", None)),
    f"{FRONT}.frame_splicing": (1, (1,)),
    f"{ENCODER}.feat_out": (-1, (-1, 0)),
    f"{ENCODER}.subsampling": ("striding", ("dw_striding",)),
    f"{ENCODER}.subsampling_factor": (4, (SUBSAMPLING,)),
    f"{ENCODER}.causal_downsampling": (False, (False,)),
    f"{ENCODER}.reduction": (None, (None, "")),
    f"{ENCODER}.self_attention_model": ("rel_pos", ("rel_pos",)),
    f"{ENCODER}.att_context_size": (None, (None, [-1, -1], [[-1, -1]])),
    f"{ENCODER}.att_context_style": ("regular", ("regular",)),
    f"{ENCODER}.att_chunk_context_size": (None, (None,)),
    f"{ENCODER}.global_tokens": (0, (0,)),
    f"{ENCODER}.xscaling": (True, (True, False)),
    f"{ENCODER}.conv_norm_type": ("batch_norm", ("batch_norm",)),
    f"{ENCODER}.conv_context_style": ("regular", ("regular",)),
    f"{ENCODER}.use_bias": (True, (True,)),
    f"{HEAD}.hidden_act": ("relu", ("relu",)),
    f"{HEAD}.pre_ln": (False, (False,)),
    f"{HEAD}.mask_future": (False, (False,)),
    f"{MODULES}.subsampling_factor": (SUBSAMPLING, (SUBSAMPLING,)),
    # What goes into the cache is the caller's too; these are the constants that callers have.
    f"{MODULES}.spkcache_sil_frames_per_spk": (3, (3,)),
    f"{MODULES}.pred_score_threshold": (0.25, (0.25,)),
    f"{MODULES}.scores_boost_latest": (0.05, (0.05,)),
    f"{MODULES}.sil_threshold": (0.2, (0.2,)),
    f"{MODULES}.strong_boost_rate": (0.75, (0.75,)),
    f"{MODULES}.weak_boost_rate": (1.5, (1.5,)),
    f"{MODULES}.min_pos_scores_rate": (0.5, (0.5,)),
}

# Settings that are read elsewhere, or that make no difference to what a trained model says.
READ_OR_IDLE = {
    ENCODER: "_target_ feat_in n_layers d_model subsampling_conv_channels subsampling_conv_chunking_factor "
    "reduction_position reduction_factor ff_expansion_factor n_heads att_context_probs untie_biases pos_emb_max_len "
    "conv_kernel_size conv_context_size dropout dropout_pre_encoder dropout_emb dropout_att stochastic_depth_drop_prob "
    "stochastic_depth_mode stochastic_depth_start_layer global_tokens_spacing global_attn_separate use_pytorch_sdpa "
    "use_pytorch_sdpa_backends sync_max_audio_length",
    HEAD: "_target_ num_layers hidden_size inner_size num_attention_heads attn_score_dropout attn_layer_dropout "
    "ffn_dropout pre_ln_final_layer_norm",
    MODULES: "_target_ num_spks dropout_rate fc_d_model tf_d_model spkcache_len fifo_len chunk_len chunk_left_context "
    "chunk_right_context spkcache_update_period spkcache_refresh_rate causal_attn_rate causal_attn_rc scores_add_rnd "
    "max_index",
}
CLASSES = {
    "target": "SortformerEncLabelModel",
    f"{ENCODER}._target_": "ConformerEncoder",
    f"{HEAD}._target_": "TransformerEncoder",
    f"{MODULES}._target_": "SortformerModules",
}


@dataclass(frozen=True)
class Design:
    """The sizes of a network, as its config gives them."""

    bands: int
    channels: int
    width: int
    heads: int
    layers: int
    inner: int
    scale: float
    kernel: int
    context: tuple[int, int]
    head_width: int
    head_heads: int
    head_layers: int
    head_inner: int
    speakers: int

    @property
    def bands_left(self) -> int:
        """Bands behind the subsampling."""
        return -(-self.bands // SUBSAMPLING)

    @classmethod
    def of(cls, config: dict[str, Any], where: str) -> Design:
        """Read and check a config.

        Raises:
            ConversionError: it asks for something that is not built here, or does not fit itself.
        """
        settings = Settings(config, where)
        settings.check()
        width = settings.whole(f"{ENCODER}.d_model")
        head_width = settings.whole(f"{HEAD}.hidden_size")
        channels = settings.whole(f"{ENCODER}.subsampling_conv_channels", default=-1, least=-1)
        kernel = settings.whole(f"{ENCODER}.conv_kernel_size", default=31)
        found = cls(
            bands=settings.whole(f"{ENCODER}.feat_in"),
            channels=width if channels == -1 else channels,
            width=width,
            heads=settings.whole(f"{ENCODER}.n_heads", default=4),
            layers=settings.whole(f"{ENCODER}.n_layers"),
            inner=width * settings.whole(f"{ENCODER}.ff_expansion_factor", default=4),
            scale=math.sqrt(width) if settings.get(f"{ENCODER}.xscaling", True) else 1.0,
            kernel=kernel,
            context=settings.context(kernel),
            head_width=head_width,
            head_heads=settings.whole(f"{HEAD}.num_attention_heads", default=1),
            head_layers=settings.whole(f"{HEAD}.num_layers"),
            head_inner=settings.whole(f"{HEAD}.inner_size"),
            speakers=settings.whole(f"{MODULES}.num_spks", default=4),
        )
        settings.same(f"{FRONT}.features", found.bands)
        settings.same(f"{MODULES}.fc_d_model", width)
        settings.same(f"{MODULES}.tf_d_model", head_width)
        settings.same("model_defaults.tf_d_model", head_width)
        settings.same("max_num_of_spks", found.speakers)
        for size, heads, key in ((width, found.heads, ENCODER), (head_width, found.head_heads, HEAD)):
            if size % heads:
                raise ConversionError(f"{where}: {key} has {heads} heads, and its width is {size}")
        if width % 2:
            raise ConversionError(f"{where}: {ENCODER}.d_model is {width}, an odd number")
        return found

    def parameters(self) -> Shapes:
        """Every tensor that is read, by its name in NeMo, with its shape."""
        found: Shapes = {}

        def norm(path: str, size: int) -> None:
            found[f"{path}.weight"] = found[f"{path}.bias"] = (size,)

        def linear(path: str, outputs: int, *inputs: int) -> None:
            found[f"{path}.weight"], found[f"{path}.bias"] = (outputs, *inputs), (outputs,)

        width, inner = self.width, self.inner
        for index in STAGE_CONVS:
            linear(f"{ENCODER}.pre_encode.conv.{index}", self.channels, 1, 3, 3)
        for index in POINT_CONVS:
            linear(f"{ENCODER}.pre_encode.conv.{index}", self.channels, self.channels, 1, 1)
        linear(f"{ENCODER}.pre_encode.out", width, self.channels * self.bands_left)
        for layer in range(self.layers):
            path = f"{ENCODER}.layers.{layer}"
            for name in ("norm_feed_forward1", "norm_self_att", "norm_conv", "norm_feed_forward2", "norm_out"):
                norm(f"{path}.{name}", width)
            for name in ("feed_forward1", "feed_forward2"):
                linear(f"{path}.{name}.linear1", inner, width)
                linear(f"{path}.{name}.linear2", width, inner)
            for name in ("linear_q", "linear_k", "linear_v", "linear_out"):
                linear(f"{path}.self_attn.{name}", width, width)
            found[f"{path}.self_attn.linear_pos.weight"] = (width, width)
            for name in ("pos_bias_u", "pos_bias_v"):
                found[f"{path}.self_attn.{name}"] = (self.heads, width // self.heads)
            linear(f"{path}.conv.pointwise_conv1", 2 * width, width, 1)
            linear(f"{path}.conv.depthwise_conv", width, 1, self.kernel)
            linear(f"{path}.conv.pointwise_conv2", width, width, 1)
            norm(f"{path}.conv.batch_norm", width)
            for name in ("running_mean", "running_var"):
                found[f"{path}.conv.batch_norm.{name}"] = (width,)
        width = self.head_width
        for layer in range(self.head_layers):
            path = f"{HEAD}.layers.{layer}"
            for name in ("query_net", "key_net", "value_net", "out_projection"):
                linear(f"{path}.first_sub_layer.{name}", width, width)
            linear(f"{path}.second_sub_layer.dense_in", self.head_inner, width)
            linear(f"{path}.second_sub_layer.dense_out", width, self.head_inner)
            norm(f"{path}.layer_norm_1", width)
            norm(f"{path}.layer_norm_2", width)
        if self.width != width:
            linear(f"{MODULES}.encoder_proj", width, self.width)
        linear(f"{MODULES}.first_hidden_to_hidden", width, width)
        linear(f"{MODULES}.single_hidden_to_spks", self.speakers, width)
        return found


STAGE_CONVS, POINT_CONVS = (0, 2, 5), (3, 6)  # places in NeMo's sequence, where activations count too
UNREAD = re.compile(rf"{FRONT}\..*|{MODULES}\.hidden_to_spks\.(weight|bias)|.*\.num_batches_tracked")


class Settings:
    """A config, asked by dotted keys."""

    def __init__(self, config: dict[str, Any], where: str) -> None:
        self._config, self._where = config, where

    def get(self, key: str, default: Any) -> Any:
        """The value of a key; the default where it is not said."""
        value: Any = self._config
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                return default
            value = value[part]
        return value

    def check(self) -> None:
        """Refuse what is not built."""
        for section in (FRONT, *READ_OR_IDLE):
            if not isinstance(self.get(section, None), dict):
                raise ConversionError(f"{self._where}: its config has no {section}: not a Sortformer of NeMo")
        for key, name in CLASSES.items():
            given = self.get(key, name)
            if not isinstance(given, str) or given.split(".")[-1] != name:
                raise self._wrong(key, given, f"a {name}")
        for key, (default, built) in BUILT.items():
            given = self.get(key, default)
            if not any(type(given) is type(each) and given == each for each in built):
                raise self._wrong(key, given, " or ".join(map(repr, built)))
        for section, names in READ_OR_IDLE.items():
            for name, value in self.get(section, {}).items():
                if name not in names.split() and f"{section}.{name}" not in BUILT and value is not None:
                    raise self._wrong(f"{section}.{name}", value, "nothing: this setting is not known")

    def whole(self, key: str, *, default: int | None = None, least: int = 1) -> int:
        """A whole number that is not too small or absurdly large."""
        given = self.get(key, default)
        if type(given) is not int or not (least <= given <= 1 << 16) or given == 0:
            raise self._wrong(key, given, "a whole number that makes sense")
        return given

    def same(self, key: str, expected: int) -> None:
        """A size that is said a second time, if it is."""
        if (given := self.get(key, expected)) != expected:
            raise self._wrong(key, given, f"{expected}, as it is elsewhere")

    def context(self, kernel: int) -> tuple[int, int]:
        """Frames before and behind the one that a depthwise convolution is at."""
        given = self.get(f"{ENCODER}.conv_context_size", None)
        if given is None and kernel % 2:
            return (kernel - 1) // 2, (kernel - 1) // 2
        if given == "causal":
            return kernel - 1, 0
        if isinstance(given, list) and len(given) == 2 and all(type(each) is int and each >= 0 for each in given):
            before, behind = given
            if before + behind + 1 == kernel:
                return before, behind
        raise self._wrong(f"{ENCODER}.conv_context_size", given, f"what a kernel of {kernel} frames allows")

    def _wrong(self, key: str, given: Any, built: str) -> ConversionError:
        return ConversionError(
            f"{self._where}: its config says {key}: {repr(given)[:100]}; what is built here is {built}"
        )


def check_parameters(state: State, shapes: Shapes) -> None:
    """Refuse tensors that are missing, of another shape, or left over: dropped weights would be a silent error."""
    for name, shape in shapes.items():
        if name not in state.names():
            raise ConversionError(f"{state.where}: tensor {name} is missing: not what its config says")
        if state.shape(name) != shape:
            found = list(state.shape(name))
            raise ConversionError(f"{state.where}: {name} has shape {found}, and its config means {list(shape)}")
    left = sorted(name for name in state.names() - set(shapes) if not UNREAD.fullmatch(name))
    if left:
        raise ConversionError(f"{state.where}: {left[0][:200]} ({len(left)} in all) is not what its config says")


# -------------------------------------------------------------------------------------------------------- the programs


@dataclass(frozen=True)
class Chunking:
    """How a package cuts its input, in frames of 80 ms; the names are those of its metadata."""

    chunk_len: int
    chunk_left_context: int
    chunk_right_context: int
    fifo_len: int
    spkcache_len: int
    spkcache_update_period: int

    @property
    def embeddings(self) -> int:
        """Frames of a chunk with its contexts."""
        return self.chunk_left_context + self.chunk_len + self.chunk_right_context

    @property
    def frames(self) -> int:
        """Frames that the head takes."""
        return self.spkcache_len + self.fifo_len + self.embeddings

    def check(self, speakers: int) -> None:
        """Refuse what NeMo refuses, and a FIFO of nothing, which an input of the package cannot be."""
        least = {"chunk_left_context": 0, "chunk_right_context": 0, "spkcache_len": 4 * speakers}
        for each in fields(self):
            if getattr(self, each.name) < least.get(each.name, 1):
                value, bound = getattr(self, each.name), least.get(each.name, 1)
                raise ConversionError(f"--{each.name.replace('_', '-')} is {value}; it must be at least {bound}")


class Network:
    """Layers as MIL operations, in one precision; a path is the name of a NeMo module."""

    def __init__(self, design: Design, state: State, dtype: type[np.floating[Any]]) -> None:
        from coremltools.converters.mil import Builder

        self.design, self.state, self.dtype, self.mb = design, state, dtype, Builder

    def number(self, value: float) -> Any:
        """A constant of the network's precision."""
        return self.dtype(value)

    def weight(self, name: str) -> Any:
        """A tensor of the checkpoint."""
        return self.fit(self.state.get(name), name)

    def fit(self, values: npt.NDArray[np.floating[Any]], name: str) -> Any:
        """Values in the network's precision, if it holds them."""
        if np.abs(values).max() > np.finfo(self.dtype).max:
            raise ConversionError(f"{self.state.where}: {name} holds values that float16 does not")
        return np.ascontiguousarray(values, self.dtype)

    def linear(self, x: Any, path: str) -> Any:
        """NeMo's linear layer of this name."""
        weight, bias = self.weight(f"{path}.weight"), self.weight(f"{path}.bias")
        return self.mb.linear(x=x, weight=weight, bias=bias, name=_name(path))

    def norm(self, x: Any, path: str) -> Any:
        """Its layer norm of this name."""
        gain, bias = self.weight(f"{path}.weight"), self.weight(f"{path}.bias")
        return self.mb.layer_norm(
            x=x, axes=[-1], gamma=gain, beta=bias, epsilon=self.number(NORM_EPS), name=_name(path)
        )

    def conv(self, x: Any, path: str, **options: Any) -> Any:
        """Its convolution of this name."""
        weight, bias = self.weight(f"{path}.weight"), self.weight(f"{path}.bias")
        return self.mb.conv(x=x, weight=weight, bias=bias, name=_name(path), **options)

    def attend(self, query: Any, key: Any, value: Any, far: Any, places: Any = None) -> Any:
        """Softmax attention; ``places`` is added to the scores, and the query is scaled already."""
        mb = self.mb
        heads, frames, size = value.shape[1:]
        scores = mb.matmul(x=query, y=key, transpose_y=True)
        scores = scores if places is None else mb.add(x=scores, y=places)
        mixed = mb.matmul(x=mb.softmax(x=mb.add(x=scores, y=far), axis=-1), y=value)
        return mb.reshape(x=mb.transpose(x=mixed, perm=[0, 2, 1, 3]), shape=[1, frames, heads * size])

    def split(self, x: Any, heads: int) -> Any:
        """``[1, frames, width]`` to ``[1, heads, frames, width / heads]``."""
        _, frames, width = x.shape
        x = self.mb.reshape(x=x, shape=[1, frames, heads, width // heads])
        return self.mb.transpose(x=x, perm=[0, 2, 1, 3])


class PreEncoder(Network):
    """Features of a chunk to embeddings, and what the head takes: all valid frames side by side."""

    def program(self, chunking: Chunking) -> Any:
        """The program for one way of cutting the input."""
        from coremltools.converters.mil.mil import types

        cache, total, width = chunking.spkcache_len, chunking.frames, self.design.width
        features = (1, SUBSAMPLING * chunking.embeddings, self.design.bands)
        shapes = [features, (1, cache, width), (1, chunking.fifo_len, width)]
        specs = [self.mb.TensorSpec(*spec) for shape in shapes for spec in ((shape, types.fp32), ((1,), types.int32))]

        def body(
            chunk: Any, chunk_lengths: Any, spkcache: Any, spkcache_lengths: Any, fifo: Any, fifo_lengths: Any
        ) -> Any:
            mb = self.mb
            x, length = self.embed(chunk, chunk_lengths)
            before = mb.add(x=spkcache_lengths, y=fifo_lengths)
            lengths = mb.add(x=before, y=length, name="pre_encoder_lengths")
            at = np.arange(total, dtype=np.int32)
            of_fifo = mb.add(x=mb.sub(x=at, y=spkcache_lengths), y=np.int32(cache))
            of_chunk = mb.add(x=mb.sub(x=at, y=before), y=np.int32(cache + chunking.fifo_len))
            later = mb.select(cond=mb.less(x=at, y=before), a=of_fifo, b=of_chunk)
            source = mb.select(cond=mb.less(x=at, y=spkcache_lengths), a=at, b=later)
            valid = mb.less(x=at, y=lengths)
            source = mb.select(cond=valid, a=source, b=np.zeros(total, np.int32))
            packed = mb.gather(x=mb.concat(values=[spkcache, fifo, x], axis=1), indices=source, axis=1)
            mask = mb.reshape(x=mb.cast(x=valid, dtype="fp32"), shape=[1, total, 1])
            return mb.mul(x=packed, y=mask, name="pre_encoder_embs"), lengths, x, length

        return self.mb.program(input_specs=specs)(body)

    def embed(self, chunk: Any, length: Any) -> tuple[Any, Any]:
        """Three convolutions of stride 2; frames that are not valid are nought before each."""
        mb, path = self.mb, f"{ENCODER}.pre_encode"
        _, frames, bands = chunk.shape
        x = mb.mul(x=mb.reshape(x=chunk, shape=[1, 1, frames, bands]), y=self.valid(frames, length))
        for stage, index in enumerate(STAGE_CONVS):
            pads = {"strides": [2, 2], "pad_type": "custom", "pad": [1, 1, 1, 1]}
            x = self.conv(x, f"{path}.conv.{index}", groups=self.design.channels if stage else 1, **pads)
            if stage:
                x = self.conv(x, f"{path}.conv.{POINT_CONVS[stage - 1]}", pad_type="valid")
            frames //= 2
            length = mb.floor_div(x=mb.add(x=length, y=np.int32(1)), y=np.int32(2))
            x = mb.mul(x=mb.relu(x=x), y=self.valid(frames, length))
        x = mb.reshape(x=mb.transpose(x=x, perm=[0, 2, 1, 3]), shape=[1, frames, x.shape[1] * x.shape[3]])
        x = mb.identity(x=self.linear(x, f"{path}.out"), name="chunk_pre_encoder_embs")
        return x, mb.identity(x=length, name="chunk_pre_encoder_lengths")

    def valid(self, frames: int, length: Any) -> Any:
        """One where a frame is valid, nought elsewhere: ``[1, 1, frames, 1]``."""
        there = self.mb.less(x=np.arange(frames, dtype=np.int32), y=length)
        return self.mb.reshape(x=self.mb.cast(x=there, dtype="fp32"), shape=[1, 1, frames, 1])


class Head(Network):
    """Embeddings to what each speaker does in every frame."""

    def program(self, chunking: Chunking) -> Any:
        """The program for one way of cutting the input."""
        from coremltools.converters.mil.mil import types

        design, total = self.design, chunking.frames
        specs = [self.mb.TensorSpec((1, total, design.width), types.fp32), self.mb.TensorSpec((1,), types.int32)]
        positions = relative_positions(total, design.width)

        def body(pre_encoder_embs: Any, pre_encoder_lengths: Any) -> Any:
            mb = self.mb
            valid = mb.less(x=np.arange(total, dtype=np.int32), y=pre_encoder_lengths)
            kept = mb.cast(x=valid, dtype="fp16")
            far = mb.mul(x=mb.sub(x=self.number(1), y=kept), y=self.number(FAR))
            far = mb.reshape(x=far, shape=[1, 1, 1, total])
            kept_frames = mb.reshape(x=kept, shape=[1, 1, total])
            x = mb.mul(x=mb.cast(x=pre_encoder_embs, dtype="fp16"), y=self.number(design.scale))
            for layer in range(design.layers):
                x = self.conformer(x, f"{ENCODER}.layers.{layer}", positions, far, kept_frames)
            if design.width != design.head_width:
                x = self.linear(x, f"{MODULES}.encoder_proj")
            inside = mb.cast(x=x, dtype="fp32", name="nest_encoder_embs")
            for layer in range(design.head_layers):
                x = self.transformer(x, f"{HEAD}.layers.{layer}", far)
            x = self.linear(mb.relu(x=x), f"{MODULES}.first_hidden_to_hidden")
            x = mb.sigmoid(x=self.linear(mb.relu(x=x), f"{MODULES}.single_hidden_to_spks"))
            x = mb.mul(x=x, y=mb.reshape(x=kept, shape=[1, total, 1]))
            predictions = mb.cast(x=x, dtype="fp32", name="speaker_preds")
            return predictions, inside, mb.identity(x=pre_encoder_lengths, name="nest_encoder_lengths")

        return self.mb.program(input_specs=specs)(body)

    def conformer(self, x: Any, path: str, positions: npt.NDArray[np.float64], far: Any, kept: Any) -> Any:
        """Half a feed-forward layer, attention, convolution, the other half, a norm."""
        mb = self.mb
        x = mb.add(x=x, y=self.feed_forward(self.norm(x, f"{path}.norm_feed_forward1"), f"{path}.feed_forward1"))
        normed = self.norm(x, f"{path}.norm_self_att")
        x = mb.add(x=x, y=self.relative_attention(normed, f"{path}.self_attn", positions, far))
        x = mb.add(x=x, y=self.convolution(self.norm(x, f"{path}.norm_conv"), f"{path}.conv", kept))
        x = mb.add(x=x, y=self.feed_forward(self.norm(x, f"{path}.norm_feed_forward2"), f"{path}.feed_forward2"))
        return self.norm(x, f"{path}.norm_out")

    def feed_forward(self, x: Any, path: str) -> Any:
        """Two linear layers with a Swish between them, halved."""
        x = self.linear(self.mb.silu(x=self.linear(x, f"{path}.linear1")), f"{path}.linear2")
        return self.mb.mul(x=x, y=self.number(0.5))

    def relative_attention(self, x: Any, path: str, positions: npt.NDArray[np.float64], far: Any) -> Any:
        """Attention whose scores also depend on how far apart two frames are.

        Row i of the product with all positions holds at column n - 1 - i + j what frame i wants of frame j of n: a
        column of zeros before the first, and rows of another length, turn that into column j.
        """
        mb, heads, frames = self.mb, self.design.heads, x.shape[1]
        size = self.design.width // heads
        query, key, value = (self.split(self.linear(x, f"{path}.linear_{part}"), heads) for part in "qkv")
        biases = (self.weight(f"{path}.pos_bias_{part}").reshape(1, heads, 1, size) for part in "uv")
        scale = self.number(1 / math.sqrt(size))
        by_content, by_place = (mb.mul(x=mb.add(x=query, y=bias), y=scale) for bias in biases)
        projected = positions @ self.state.get(f"{path}.linear_pos.weight").astype(np.float64).T
        projected = projected.reshape(1, 2 * frames - 1, heads, size).transpose(0, 2, 1, 3)
        places = self.fit(projected, f"{path}.linear_pos")
        x = mb.matmul(x=by_place, y=places, transpose_y=True, name=_name(f"{path}.linear_pos"))
        x = mb.pad(x=x, pad=[0, 0, 0, 0, 0, 0, 1, 0], mode="constant", constant_val=self.number(0))
        x = mb.reshape(x=x, shape=[1, heads, 2 * frames, frames])
        x = mb.slice_by_index(x=x, begin=[0, 0, 1, 0], end=[1, heads, 2 * frames, frames])
        x = mb.reshape(x=x, shape=[1, heads, frames, 2 * frames - 1])
        x = mb.slice_by_index(x=x, begin=[0, 0, 0, 0], end=[1, heads, frames, frames])
        return self.linear(self.attend(by_content, key, value, far, x), f"{path}.linear_out")

    def convolution(self, x: Any, path: str, kept: Any) -> Any:
        """A gated pointwise convolution, a depthwise one with its batch norm, and a pointwise one."""
        mb = self.mb
        x = self.conv(mb.transpose(x=x, perm=[0, 2, 1]), f"{path}.pointwise_conv1", pad_type="valid")
        x, gate = mb.split(x=x, num_splits=2, axis=1)
        x = mb.mul(x=mb.mul(x=x, y=mb.sigmoid(x=gate)), y=kept)
        part = {
            name: self.state.get(f"{path}.{name}").astype(np.float64)
            for name in ("depthwise_conv.weight", "depthwise_conv.bias", *(f"batch_norm.{each}" for each in NORM))
        }
        gain, shift, mean, variance = (part[f"batch_norm.{each}"] for each in NORM)
        if variance.min() < 0:
            raise ConversionError(f"{self.state.where}: {path}.batch_norm.running_var holds values below nought")
        gain = gain / np.sqrt(variance + NORM_EPS)
        weight = self.fit(part["depthwise_conv.weight"] * gain[:, None, None], f"{path}.depthwise_conv")
        bias = self.fit((part["depthwise_conv.bias"] - mean) * gain + shift, f"{path}.depthwise_conv")
        pads = {"pad_type": "custom", "pad": list(self.design.context), "groups": self.design.width}
        x = mb.conv(x=x, weight=weight, bias=bias, name=_name(f"{path}.depthwise_conv"), **pads)
        x = self.conv(mb.silu(x=x), f"{path}.pointwise_conv2", pad_type="valid")
        return mb.transpose(x=x, perm=[0, 2, 1])

    def transformer(self, x: Any, path: str, far: Any) -> Any:
        """Attention and a feed-forward layer, a norm behind each."""
        mb, heads, inner = self.mb, self.design.head_heads, f"{path}.first_sub_layer"
        query, key, value = (
            self.split(self.linear(x, f"{inner}.{part}_net"), heads) for part in ("query", "key", "value")
        )
        query = mb.mul(x=query, y=self.number(1 / math.sqrt(self.design.head_width // heads)))
        said = self.linear(self.attend(query, key, value, far), f"{inner}.out_projection")
        x = self.norm(mb.add(x=said, y=x), f"{path}.layer_norm_1")
        said = mb.relu(x=self.linear(x, f"{path}.second_sub_layer.dense_in"))
        said = self.linear(said, f"{path}.second_sub_layer.dense_out")
        return self.norm(mb.add(x=said, y=x), f"{path}.layer_norm_2")


NORM = ("weight", "bias", "running_mean", "running_var")


def relative_positions(frames: int, width: int) -> npt.NDArray[np.float64]:
    """Sines and cosines of the distances from ``frames - 1`` down to ``1 - frames``, ``[2 frames - 1, width]``."""
    distances = np.arange(frames - 1, -frames, -1)[:, None]
    angles = distances * np.exp(np.arange(0, width, 2) * (-math.log(10000) / width))
    return np.stack([np.sin(angles), np.cos(angles)], axis=2).reshape(2 * frames - 1, width)


def _name(path: str) -> str:
    return path.replace(".", "_")


# --------------------------------------------------------------------------------------------------------- the package


def write_package(design: Design, state: State, chunking: Chunking, marks: dict[str, str], path: Path) -> None:
    """Write the pipeline as the folder ``path``, replacing an earlier one; its bytes depend on the input alone."""
    import coremltools as ct

    def converted(program: Any) -> Any:
        return ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS16,
            pass_pipeline=ct.PassPipeline.EMPTY,  # the programs are what they shall be
            skip_model_load=True,
        )

    first = converted(PreEncoder(design, state, np.float32).program(chunking))
    second = converted(Head(design, state, np.float16).program(chunking))
    pipeline = ct.utils.make_pipeline(first, second)
    spec = pipeline.get_spec()
    said = {each.name: str(getattr(chunking, each.name)) for each in fields(chunking)}
    said |= {"subsampling_factor": str(SUBSAMPLING), "frame_duration": str(FRAME_S)}
    said |= {"mel_feature_frames": str(SUBSAMPLING * chunking.chunk_len), **marks}
    spec.description.metadata.userDefined.update(said)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder, path.name)
        ct.models.MLModel(spec, weights_dir=pipeline.weights_dir, skip_model_load=True).save(str(made))
        make_canonical(made)
        if path.exists():
            shutil.rmtree(path)
        made.rename(path)


def make_canonical(package: Path) -> None:
    """Drop dates, sort maps, and derive the identifiers of the manifest from the content."""
    from coremltools.proto.Model_pb2 import Model

    manifest = json.loads((package / "Manifest.json").read_text("utf-8"))
    entries = manifest["itemInfoEntries"]
    model = package / "Data" / entries[manifest["rootModelIdentifier"]]["path"]
    spec = Model.FromString(model.read_bytes())
    for each in (spec, *spec.pipeline.models):
        each.description.metadata.userDefined.pop("com.github.apple.coremltools.conversion_date", None)
    data = spec.SerializeToString(deterministic=True)
    model.write_bytes(data)
    digest = hashlib.sha256(data)
    for weights in sorted(package.rglob("weights/*")):
        with weights.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    names = {old: str(uuid.uuid5(uuid.NAMESPACE_OID, digest.hexdigest() + entries[old]["path"])) for old in entries}
    manifest["itemInfoEntries"] = {names[old]: entries[old] for old in sorted(entries, key=names.__getitem__)}
    manifest["rootModelIdentifier"] = names[manifest["rootModelIdentifier"]]
    (package / "Manifest.json").write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n", "utf-8")
    for file in package.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)


def convert(checkpoint: Path, chunking: Chunking, out: Path) -> None:
    """Read a checkpoint and write one package.

    Raises:
        ConversionError: the checkpoint is damaged, unsafe, or of a network that is not built here.
    """
    with tempfile.TemporaryFile() as file:
        config = unpack(checkpoint, file)
        design = Design.of(config, str(checkpoint))
        chunking.check(design.speakers)
        state = State(file, f"{checkpoint}/{WEIGHTS}")
        check_parameters(state, design.parameters())
        marks = {SYNTHETIC: str(config[SYNTHETIC])} if SYNTHETIC in config else {}
        write_package(design, state, chunking, marks, out)


def main() -> int:
    """Convert one checkpoint; problems are one line on stderr."""
    parser = argparse.ArgumentParser(description="Convert a Streaming Sortformer of NeMo to Core ML, without NeMo.")
    parser.add_argument("--checkpoint", type=Path, required=True, help="the .nemo file")
    parser.add_argument("--out", type=Path, required=True, help="the .mlpackage that is written")
    for each in fields(Chunking):
        option = f"--{each.name.replace('_', '-')}"
        parser.add_argument(option, type=int, required=True, metavar="N", help="frames of 80 ms")
    options = vars(parser.parse_args())
    checkpoint, out = options.pop("checkpoint"), options.pop("out")
    os.environ.setdefault("TQDM_DISABLE", "1")
    logging.disable(logging.WARNING)  # coremltools tells of everything that Linux lacks
    try:
        convert(checkpoint, Chunking(**options), out)
    except (ConversionError, OSError) as error:
        print(f"nemo_sortformer_to_coreml: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
