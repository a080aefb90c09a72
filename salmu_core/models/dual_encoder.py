"""The dual encoder that methods change and metrics embed with: open_clip's own model behind a small, uniform face."""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_nn
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from salmu_core.data.pairs import Features, Pairs
from salmu_core.data.processes import process_count, share_of_batch
from salmu_core.errors import BadCheckpoint, BadOptions
from salmu_core.files.seals import file_checksum
from salmu_core.files.writing import write_tensors
from salmu_core.models.config import CONFIG_FILE as CONFIG_FILE
from salmu_core.models.config import ModelConfig as ModelConfig
from salmu_core.models.config import on_this_machine
from salmu_core.models.processor import Processor
from salmu_core.models.row_count import RowCount as RowCount
from salmu_core.models.weights import BESIDE

Tower = Literal["image", "text"]
#: From this many captions on they are encoded in parts of similar length on a CPU, and in how many parts.
_WORTH_SORTING, _PARTS_BY_LENGTH = 32, 4
WEIGHTS_FILE = "model.safetensors"


class DualEncoder(nn.Module):
    """An open_clip model with unit-length embeddings, fp32 weights and its processor.

    Calling it on `Pairs` gives the embeddings of the whole global batch, on every process, with gradients that are right
    under data parallelism.

    With `micro_batch` set, at most that many rows go through an encoder at a time and only their embeddings are kept; the
    backward pass encodes each part again just before it needs its activations. So a loss sees the embeddings of the whole
    batch, its gradients are those of the whole batch up to rounding, and memory does not grow with the batch: the gradient
    cache of Gao et al. 2021 (arXiv 2101.06983), here with PyTorch's checkpoints in place of a second loop, so that
    any loss, any part of it and any number of backward passes are right.
    """

    def __init__(self, clip: nn.Module, config: ModelConfig) -> None:
        super().__init__()
        self.clip = clip
        self.config = copy.deepcopy(config)  # a method that writes into it changes no other model
        self.processor = Processor(self.config)
        #: Encoders run under autocast to this type when set; weights and embeddings stay fp32.
        self.autocast: torch.dtype | None = None
        #: Rows that go through an encoder at a time; None: all. An encoder that forward hooks watch is given whole batches.
        self.micro_batch: int | None = None
        #: Counts the rows of `encode_image` and `encode_text`, and those of batches (whole ones on every process), while it is set.
        self.rows_encoded: RowCount | None = None
        self._compiled = False

    @classmethod
    def create(cls, config: ModelConfig, seed: int) -> DualEncoder:
        """A randomly initialised model; equal seeds give equal weights and global random state is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(_build(config), config)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.clip.parameters()).device

    @property
    def scale(self) -> Float[Tensor, ""]:
        """What cosines are multiplied with to become logits."""
        scale: Tensor = self.clip.logit_scale.exp().reshape(())  # type: ignore[operator]
        return scale

    def encode_image(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        """Unit-length image embeddings in fp32."""
        self._count(image=len(images))
        return self._in_parts(self._embed_images, images)

    def encode_text(self, tokens: Int[Tensor, "batch context"]) -> Float[Tensor, "batch dim"]:
        """Unit-length caption embeddings in fp32.

        Where the text encoder is causal, columns after the last end-of-text of the batch are not computed: no earlier
        position can see them, so the result is the same.
        """
        self._count(text=len(tokens))
        return self._in_parts(self._embed_text, tokens)

    def _embed_images(self, images: Tensor) -> Tensor:
        with self._as_configured():
            features = self.clip.encode_image(images)  # type: ignore[operator]
        return F.normalize(features.float(), dim=-1)

    def _embed_text(self, tokens: Tensor, length: int | None = None) -> Tensor:
        with self._as_configured():
            features = self._text_features(tokens, length)
        return F.normalize(features.float(), dim=-1)

    def _count(self, image: int = 0, text: int = 0) -> None:
        if self.rows_encoded is not None:
            self.rows_encoded.take(image, text)

    def _in_parts(self, embed: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        """`embed(rows)`, at most `micro_batch` rows at a time."""
        if self.micro_batch is None or len(rows) <= self.micro_batch:
            return embed(rows)
        if self._watched():
            if torch.is_grad_enabled():
                warnings.warn(
                    f"Forward hooks watch an encoder, so it is given {len(rows)} rows at once instead of micro-batches of"
                    f" {self.micro_batch}.",
                    stacklevel=3,
                )
            return embed(rows)
        parts = rows.tensor_split(-(-len(rows) // self.micro_batch))
        if not torch.is_grad_enabled():
            return torch.cat([embed(part) for part in parts])
        # Randomness has to repeat only where there is some: dropout while training from scratch.
        keep = self.training
        return torch.cat([checkpoint(embed, part, use_reentrant=False, preserve_rng_state=keep) for part in parts])

    def _watched(self) -> bool:
        """Do forward hooks wait for what an encoder computes?"""
        return any(module._forward_hooks or module._forward_pre_hooks for module in self.clip.modules())

    @contextmanager
    def _as_configured(self) -> Iterator[None]:
        with self._precision():
            # Compiled code does not know of hooks that were added after it was compiled.
            if self._compiled and self._watched():
                with torch.compiler.set_stance("force_eager"):
                    yield
            else:
                yield

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None)

    def _text_features(self, tokens: Tensor, length: int | None = None) -> Tensor:
        clip: Any = self.clip
        causal = getattr(clip, "attn_mask", None) is not None and getattr(clip, "text_pool_type", "") == "argmax"
        if not causal or tokens.numel() == 0:
            features: Tensor = clip.encode_text(tokens)
            return features
        # Hooks are promised whole batches (see micro_batch).
        if tokens.device.type == "cpu" and len(tokens) >= _WORTH_SORTING and not self._watched():
            return self._by_length(tokens)
        if length is None:
            length = int(tokens.argmax(dim=-1).max()) + 1  # end-of-text has the largest id
        return self._causal_features(tokens[:, :length])

    def _by_length(self, tokens: Tensor) -> Tensor:
        """Encode captions beside others of their length: on a CPU a batch costs its longest caption times its rows."""
        ends = tokens.argmax(dim=-1)
        order = ends.argsort(stable=True)
        parts = [
            self._causal_features(tokens[rows, : int(ends[rows[-1]]) + 1]) for rows in order.tensor_split(_PARTS_BY_LENGTH)
        ]
        return torch.cat(parts)[order.argsort()]

    def _causal_features(self, tokens: Tensor) -> Tensor:
        clip: Any = self.clip
        length = tokens.shape[1]
        dtype = clip.transformer.get_cast_dtype()
        x = clip.token_embedding(tokens).to(dtype) + clip.positional_embedding[:length].to(dtype)
        x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask[:length, :length]))
        x = x[torch.arange(len(x), device=x.device), tokens.argmax(dim=-1)]
        if clip.text_projection is not None:
            x = clip.text_projection(x) if isinstance(clip.text_projection, nn.Linear) else x @ clip.text_projection
        pooled: Tensor = x
        return pooled

    def forward(self, pairs: Pairs) -> Features:
        """Embeddings of a global batch, gathered from all processes in row order."""
        self._count(image=len(pairs), text=len(pairs))
        share = share_of_batch(len(pairs))
        store, rows = pairs.store, pairs.index[share]
        # Parts are cut from row numbers, so that not even the pixels of more than one part are held.
        image = self._in_parts(lambda part: self._embed_images(store.pixels(part)), rows)
        text = self._in_parts(lambda part: self._embed_text(store.tokens(part), store.text_length(part)), rows)
        # Where a batch cannot be shared evenly, every process computes it all and the gradients average to the same value.
        if process_count() > 1 and len(rows) < len(pairs):
            # The backward of this gather sums over processes, and data parallelism then divides by their number: together
            # every process ends with the gradient of the loss over the global batch.
            image, text = torch.cat(list(_all_gather(image))), torch.cat(list(_all_gather(text)))
        return Features(image, text, self.scale)

    def tower_parameters(self, tower: Literal["both", "image", "text"] = "both") -> list[nn.Parameter]:
        """Parameters of one or both encoders, without logit scale and bias."""
        return [parameter for name, parameter in self.clip.named_parameters() if tower_of(name) in _towers(tower)]

    def frozen_copy(self) -> DualEncoder:
        """An independent copy that takes no gradients."""
        twin = copy.deepcopy(self)
        twin.requires_grad_(False)
        twin.compile_encoders(self._compiled)  # compiled code belongs to one model and is not copied
        return twin.eval()

    def compile_encoders(self, enable: bool = True) -> None:
        """Let `torch.compile` make the encoders' code when they are next called, or go back to the code as written.

        Names of weights, saved files and copies stay as they are.
        """
        self._compiled = enable
        clip: Any = self.clip
        text = clip.text if hasattr(clip, "text") else clip.transformer
        for module, dynamic in ((clip.visual, None), (text, True)):  # captions differ in length from batch to batch
            if enable:
                module.compile(dynamic=dynamic)
            else:
                module._compiled_call_impl = None

    def checkpoint_activations(self, enable: bool = True) -> None:
        """Keep only what goes into each layer of the encoders; the backward pass computes the layer again.

        Raises:
            BadOptions: an encoder of this architecture cannot do that.
        """
        try:
            self.clip.set_grad_checkpointing(enable)  # type: ignore[operator]
        except Exception as error:  # encoders of other packages say no in their own ways
            raise BadOptions(f"This architecture cannot checkpoint its activations: {error}.", "Leave it out.") from error

    def fingerprint(self) -> dict[Tower, str]:
        """A content hash of each tower's weights and architecture. One changed weight changes its tower's hash."""
        architecture = json.dumps(self.config.as_json()["model_cfg"], sort_keys=True, default=list).encode()
        weights = sorted(self.clip.state_dict().items())

        def digest(tower: Tower) -> str:
            digest = hashlib.blake2b(digest_size=16)
            for name, tensor in weights:
                if tower_of(name) == tower:
                    digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
                    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
            digest.update(architecture)
            return digest.hexdigest()

        with ThreadPoolExecutor(2) as pool:  # hashing frees the interpreter: both towers at once
            image, text = pool.map(digest, ("image", "text"))
        return {"image": image, "text": text}

    def weight_in_use(self, name: str) -> Tensor:
        """A parameter as forward passes use it, by its name in `named_parameters()`: with what an adapter adds while one is there.
        A loss that reads weights reads them here."""
        owner, _, attribute = name.rpartition(".")
        found: Tensor = getattr(self.get_submodule(owner), attribute)
        return found

    def weights(self) -> dict[str, Tensor]:
        """The state of open_clip's model, by open_clip's names."""
        return self.clip.state_dict()

    def save(self, folder: Path) -> Path:
        """Write `model.safetensors`, `open_clip_config.json` and a tokenizer that is not CLIP's own; open_clip loads the folder as
        `local-dir:FOLDER`."""
        self.config.write(folder)
        path = folder / WEIGHTS_FILE
        beside = {name: file_checksum(folder / name) for name in (CONFIG_FILE, *(self.config.tokenizer or {}))}
        write_tensors(path, self.weights(), {BESIDE: json.dumps(beside, sort_keys=True)})
        return path


def tower_of(name: str) -> Tower | None:
    """The encoder that a parameter of open_clip's model belongs to; None for the logit scale and bias."""
    if name in ("logit_scale", "logit_bias"):
        return None
    return "image" if name.startswith("visual.") else "text"


def _build(config: ModelConfig) -> nn.Module:
    from open_clip.model import CLIP, CustomTextCLIP

    settings = copy.deepcopy(dict(config.model_cfg))
    settings["vision_cfg"] = {**settings["vision_cfg"], "timm_model_pretrained": False}  # the checkpoint fills it
    if "hf_model_name" in settings["text_cfg"]:
        settings["text_cfg"] = {**settings["text_cfg"], "hf_model_pretrained": False}
        if not config.online:
            settings["text_cfg"]["hf_model_name"] = on_this_machine(settings["text_cfg"]["hf_model_name"], "The model")
    custom = settings.pop("custom_text", False) or "hf_model_name" in settings["text_cfg"]
    previous = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        built: nn.Module = (CustomTextCLIP if custom else CLIP)(**settings)
        return built
    except (TypeError, ValueError, AssertionError, RuntimeError, NotImplementedError, KeyError, OSError) as error:
        raise BadCheckpoint(f"open_clip cannot build this architecture: {error}.") from error
    finally:
        logging.disable(previous)


@lru_cache(maxsize=8)
def sized_up(model_cfg: str, online: bool, shape: Sequence[int]) -> tuple[int, str]:
    """Of a model of shapes alone, which take no memory: numbers of its weights (0: not possible), and `encoding_problem`."""
    needed, content = 0, json.loads(model_cfg)
    try:
        with torch.device("meta"), torch.inference_mode():
            empty: Any = _build(ModelConfig(content, online=online)).eval()
            needed = sum(tensor.numel() for tensor in empty.parameters())
            return needed, encoding_problem(empty, shape, content["embed_dim"])
    except BadCheckpoint as error:  # a model that cannot be built at all says so when it is
        return needed, error.message


def encoding_problem(clip: Any, shape: Sequence[int], width: int) -> str:
    """Why a model makes no embedding of a picture of that shape, channels first; "": it does."""
    try:
        with torch.inference_mode():
            found = clip.encode_image(torch.zeros(1, *shape, device=next(clip.parameters()).device))
    except Exception as error:  # encoders of other packages say no in their own ways
        return str(error).partition("\n")[0] or type(error).__name__
    return "" if found.shape == (1, width) else f"it makes {tuple(found.shape)} of it instead of (1, {width})"


def _towers(tower: Literal["both", "image", "text"]) -> tuple[Tower, ...]:
    return ("image", "text") if tower == "both" else (tower,)


def _all_gather(tensor: Tensor) -> Sequence[Tensor]:
    if tensor.requires_grad:
        gathered: Sequence[Tensor] = dist_nn.all_gather(tensor)
        return gathered
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return parts


def __getattr__(name: str) -> Any:
    """`load_model` stood here in earlier versions."""
    if name != "load_model":
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return importlib.import_module("salmu_core.models.loading").load_model
