"""The weights of checkpoints as people keep them: which files they lie in, and what is wrapped around them.

A warning says what is taken in place of something else. What cannot be told apart, or has no place in the model, is refused.
"""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from salmu_core.errors import BadCheckpoint, DamagedFile
from salmu_core.files.first_bytes import other_content
from salmu_core.files.names import some
from salmu_core.files.seals import file_checksum, read_json
from salmu_core.files.writing import read_tensors

BESIDE = "beside"  # in the metadata of saved weights: checksums of the files without which they mean something else
INDEX = ".index.json"  # ends the name of a file that says which shard holds which tensor

_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".ckpt")
#: Of several files open_clip takes the first of these names.
_USUAL = (
    "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth", "model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth",
)  # fmt: skip
#: What trainers, and runs of salmu, leave beside weights.
_OTHERS = re.compile(
    r"(rows|adapter|training_args|optimizer|scheduler|scaler|rng_state|random_states|sampler)([-_.].*)?\.\w+"
)
_SHARD = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.safetensors|\.bin)")
#: Modules that PyTorch puts around others; each adds its word to the names of what it holds.
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_COUNTERS = {"n_averaged"}  # of torch.optim.swa_utils.AveragedModel
#: Entries of OpenAI's own checkpoints, and where a configuration says the same.
_OPENAI = {
    "input_resolution": ("vision_cfg", "image_size", 224),
    "context_length": ("text_cfg", "context_length", 77),
    "vocab_size": ("text_cfg", "vocab_size", 49408),
}


# ------------------------------------------------------------------ files


def weight_files(place: Path) -> tuple[Path, ...]:
    """The files that the weights of a model lie in: one, or all shards.

    Args:
        place: a folder, a file, or the index of shards.

    Raises:
        BadCheckpoint: no file, several sets that cannot be told apart, or a shard is missing.
    """
    if not place.is_dir():
        return _shards_of_index(place) if place.name.endswith(INDEX) else (place,)
    sets = _sets(place)
    if not sets:
        there = ", ".join(sorted(entry.name for entry in place.iterdir())[:5]) or "nothing"
        raise BadCheckpoint(f"'{place}' holds no weights.", f"Expected a file of {', '.join(_SUFFIXES)}; there is {there}.")
    usual = [name for name in _USUAL if name in sets]
    if not usual and len(sets) > 1:
        raise BadCheckpoint(
            f"'{place}' holds several files of weights: {some(sorted(sets))}.",
            "Name the one that is meant instead of the folder.",
        )
    chosen = usual[0] if usual else next(iter(sets))
    if len(sets) > 1:
        rest = some(sorted(set(sets) - {chosen}))
        warnings.warn(
            f"The weights in '{place}' are read from {chosen}, as open_clip does, and not from {rest}.", stacklevel=3
        )
    return sets[chosen]


def _sets(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Name -> files of everything in a folder that may be weights; shards go by the name of the whole."""
    names = {entry.name: entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")}
    found: dict[str, tuple[Path, ...]] = {}
    for name, path in names.items():
        if name.endswith(INDEX) and name.removesuffix(INDEX).endswith((".safetensors", ".bin")):
            found[name.removesuffix(INDEX)] = _shards_of_index(path)
    indexed = {path for paths in found.values() for path in paths}
    for name, path in names.items():
        if path in indexed or path.suffix not in _SUFFIXES or path.is_dir() or _OTHERS.fullmatch(name):
            continue
        shard = _SHARD.fullmatch(name)
        if shard is None:
            found[name] = (path,)
        else:
            whole = shard["name"] + shard["suffix"]
            found[whole] = (*found.get(whole, ()), path)
            if len(found[whole]) == 1:
                _check_all_there(folder, shard)
    return found


def _check_all_there(folder: Path, shard: re.Match[str]) -> None:
    count = int(shard["count"])
    names = [f"{shard['name']}-{number:05d}-of-{shard['count']}{shard['suffix']}" for number in range(1, count + 1)]
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise BadCheckpoint(
            f"'{folder}' holds a part of sharded weights only: {some(missing)} not there.", "Fetch all of them."
        )


def _shards_of_index(index: Path) -> tuple[Path, ...]:
    try:
        names = read_json(index)["weight_map"].values()
        files = tuple(index.with_name(Path(name).name) for name in sorted({str(name) for name in names}))
    except (DamagedFile, OSError, KeyError, TypeError, AttributeError) as error:
        raise BadCheckpoint(f"'{index}' is not an index of sharded weights: {error}.") from error
    missing = [file.name for file in files if not file.exists()]
    if missing or not files:
        raise BadCheckpoint(
            f"'{index}' names shards that are not there: {some(missing) or 'it names none'}.", "Fetch all of them."
        )
    return files


# ------------------------------------------------------------------ reading


def read_weights(place: Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint under the names that they have in the model; see `weight_files`. Pickled files are read with
    `weights_only`, which refuses everything but tensors.

    Raises:
        BadCheckpoint: it cannot be read safely, or holds no state, or more than one.
    """
    files = weight_files(place)
    if len(files) == 1:
        return _model_of(_read(files[0]), files[0])
    joined: dict[str, Tensor] = {}
    for file in files:
        part = _read(file)
        if not isinstance(part, dict) or (twice := sorted(joined.keys() & part.keys())):
            what = f"{twice[0]} for the second time" if isinstance(part, dict) else "no tensors"
            raise BadCheckpoint(f"The shard '{file}' holds {what}.", "Fetch or make the model again.")
        joined |= part
    return _model_of(joined, place)


def _read(path: Path) -> Any:
    """What is in one file."""
    if path.is_symlink() and not path.exists():
        raise BadCheckpoint(
            f"'{path}' is a link that leads nowhere.", "Copy the file that it was made for, or fetch the model again."
        )
    if not path.is_file():  # a device or a pipe may never end
        raise BadCheckpoint(f"'{path}' is not a file.")
    other = other_content(path)
    if other is not None:
        raise BadCheckpoint(f"'{path}' is {other[0]}.", other[1])
    archive = zipfile.is_zipfile(path)
    if archive:
        _check_archive(path)
    try:
        # A name says little: many tools write safetensors under .bin and the other way round.
        if not archive and (path.suffix == ".safetensors" or _begins_as_safetensors(path)):
            tensors, metadata = read_tensors(path)
            _check_beside(path, metadata)
            return tensors
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except DamagedFile as error:
        raise BadCheckpoint(
            f"'{path}' is not a checkpoint that can be read safely: {error.message}", "Fetch or make the model again."
        ) from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise BadCheckpoint(
            f"'{path}' is not a checkpoint that can be read safely: {(str(error).splitlines() or ['it is cut short'])[0]}",
            "Only safetensors files and pickles that hold nothing but tensors are read. Convert it where you trust it.",
        ) from error


def _begins_as_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _check_archive(path: Path) -> None:
    """PyTorch stores its archives as they are. A compressed one may be a thousand times as large in memory.

    Raises:
        BadCheckpoint: a member is compressed, the archive is damaged, or it is a program.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise BadCheckpoint(f"'{path}' is a damaged archive: {error}.") from error
    if any(member.filename.endswith("/constants.pkl") for member in members):
        raise BadCheckpoint(
            f"'{path}' is a TorchScript program, as OpenAI publishes its models; salmu runs none.",
            f"Where you trust it: torch.save(torch.jit.load('{path.name}', 'cpu').state_dict(), 'weights.pt')",
        )
    packed = [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise BadCheckpoint(f"'{path}' holds compressed data ({packed[0]}), which PyTorch does not write.")


def _check_beside(weights: Path, metadata: Mapping[str, str]) -> None:
    """Are the files that were saved with these weights still the same, as far as they are there?"""
    try:
        saved = json.loads(metadata.get(BESIDE, "{}"))
        pairs = [(weights.with_name(Path(name).name), str(checksum)) for name, checksum in saved.items()]
    except (ValueError, AttributeError, TypeError):
        return  # metadata of another program
    for path, checksum in pairs:
        if path.is_file() and file_checksum(path) != checksum:
            raise DamagedFile(f"'{path}' was changed after it was saved with '{weights.name}'.")


# ------------------------------------------------------------------ unwrapping


def _model_of(content: Any, source: Path) -> dict[str, Tensor]:
    """The one model in what a file holds."""
    states = dict(_states(content))
    # Optimisers keep dictionaries of tensors as well; only a model has a logit scale.
    models = {name: state for name, state in states.items() if any(_is_scale(key) for key in state)} or states
    if not models:
        raise BadCheckpoint(f"'{source}' holds no state dictionary of tensors{_said(content)}.")
    if len(models) > 1:
        first = next(iter(models))
        raise BadCheckpoint(
            f"'{source}' holds several sets of weights: {some(list(models))}.",
            f"Keep the one that is meant, e.g. torch.save(torch.load('{source.name}')['{first}'], 'weights.pt')",
        )
    return _unwrapped(next(iter(models.values())), source)


def _states(content: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Dictionaries of tensors in nested dictionaries, with where they are."""
    if not isinstance(content, Mapping) or depth > 3:
        return
    if content and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()):
        yield name, dict(content)
        return
    for key, value in content.items():
        yield from _states(value, f"{name}.{key}" if name else str(key), depth + 1)


def _unwrapped(state: dict[str, Tensor], source: Path) -> dict[str, Tensor]:
    """Without the words that wrappers, trainers and frameworks put before every name."""
    bare: dict[str, Tensor] = {}
    for name, tensor in state.items():
        short = _WRAPPERS.sub("", name)
        if short in bare:
            raise BadCheckpoint(f"'{source}' holds {short} twice, once as {name}.", "Keep one of them.")
        if short not in _COUNTERS:
            bare[short] = tensor
    prefixes = sorted({name.rpartition("logit_scale")[0] for name in bare if _is_scale(name)})
    if len(prefixes) > 1:
        raise BadCheckpoint(
            f"'{source}' holds several models: {some([f'{prefix}*' for prefix in prefixes])}.", "Keep the one that is meant."
        )
    prefix = prefixes[0] if prefixes else "module." if all(name.startswith("module.") for name in bare) else ""
    apart = sorted(name for name in bare if not name.startswith(prefix))
    if apart:
        raise BadCheckpoint(
            f"'{source}' holds a model under '{prefix}' and beside it {some(apart)}, which has no place in a CLIP model.",
            "Keep the model alone.",
        )
    return {name.removeprefix(prefix): tensor for name, tensor in bare.items()}


def _is_scale(name: str) -> bool:
    return name == "logit_scale" or name.endswith(".logit_scale")


def without_constants(
    weights: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    model_cfg: Mapping[str, Any],
    source: str,
) -> dict[str, Tensor]:
    """Weights without what a configuration says already and older versions saved as well. Each is compared with what it should
    be before it is left out.

    Args:
        expected: the model's own state.
        buffers: all buffers of the model, those that are not saved too.

    Raises:
        BadCheckpoint: one of them says something else.
    """
    kept = {}
    openai = sorted(_OPENAI.keys() & weights.keys() - expected.keys())
    for name, tensor in weights.items():
        if name in expected:
            kept[name] = tensor
        elif name in _OPENAI and tensor.numel() == 1:
            part, key, usual = _OPENAI[name]
            ours = model_cfg[part].get(key, usual)
            if tensor.item() != ours:  # which may be no whole number
                raise BadCheckpoint(f"'{source}' says {name} {tensor.item()}, and the configuration says {ours}.")
        elif name in buffers or name.endswith("position_ids"):
            usual_value = buffers.get(name, torch.arange(tensor.numel()).view(tensor.shape))
            if tensor.shape != usual_value.shape or not torch.equal(tensor.float(), usual_value.float()):
                raise BadCheckpoint(f"'{source}' holds {name} with other content than the architecture has.")
        else:
            kept[name] = tensor
    if openai and not model_cfg.get("quick_gelu"):
        warnings.warn(
            f"'{source}' holds {', '.join(openai)}, as OpenAI's checkpoints do. Their models use QuickGELU, and the configuration"
            ' does not say "quick_gelu": true. Embeddings of such a model would be wrong.',
            stacklevel=3,
        )
    return kept


def _said(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f": it holds a {type(content).__name__}"
    odd = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    return f": {some(odd)} {'is not a tensor' if len(odd) == 1 else 'are not tensors'}" if odd else ""
