"""Makes, loads and saves the dual encoder, as the OpenCLIP directory that plain `open_clip` reads."""

# B = batch, L = tokens, D = embedding

import copy
import difflib
import json
import logging
import pickle
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import save

from pairloom.models import recurrent
from pairloom.models.lora import LoraConfig
from pairloom.models.second_tower import (
    PREFIX,
    SecondImageTowerConfig,
    add_second_tower,
    encode_apart,
    load_second_tower,
    save_second_tower,
)
from pairloom.models.vocabulary import END_OF_TEXT_ID, PADDING_ID, fit_vocabulary, save_vocabulary
from pairloom.models.word_vectors import WordVectorsConfig

ARCHITECTURES = Path(__file__).parent / "architectures"
CONFIG_NAME = "open_clip_config.json"
WEIGHTS_NAME = "open_clip_model.safetensors"
WEIGHTS_PATTERNS = ("*.safetensors", "*.bin", "*.pth")  # all that open_clip takes from a directory
FITTED = "fitted"  # an architecture's `hf_tokenizer_name` that asks for a vocabulary fitted to the corpus
TOKENIZER_FILES = re.compile(r"tokenizer.*\.json|special_tokens_map\.json|vocab\..+|merges\.txt|.*\.(model|spm)")


class ModelConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Which dual encoder a pipeline trains."""

    architecture: str = "tiny-64"
    """One of our small architectures, any open_clip model name, a config file (`.json`), `local-dir:DIR` or
    `hf-hub:ORG/NAME`."""
    pretrained: str | None = None
    """open_clip's tag of pretrained weights, or a weights file; none trains from nothing. `local-dir:` and `hf-hub:`
    bring their own."""
    second_image_tower: SecondImageTowerConfig | None = None
    """An image tower of their own for some of the items (pseudo-Siamese); none encodes all by one. What is said here of
    the image tower, such as locks, is said of both."""
    word_vectors: WordVectorsConfig | None = None
    """Word vectors of the training items' texts that a training from nothing starts the token embeddings from: tokens
    that are whole words take their word's vector. None starts all of them at random."""
    lock_image: bool = False
    """Whether the image tower's weights stay as they are. A timm tower's projection is trained all the same."""
    lock_text: bool = False
    """Whether the text tower's weights stay as they are. A Hugging Face tower's projection is trained all the same."""
    unlocked_image_groups: int = Field(default=0, ge=0)
    """Groups of layers, counted from the output, that a locked image tower trains nevertheless: the projection is the
    first one, the last block the second."""
    unlocked_text_groups: int = Field(default=0, ge=0)
    """The same for the text tower."""
    layer_decay: float | None = Field(default=None, gt=0, le=1)
    """Each layer's learning rate as a share of the next one's, counted from the output (BEiT); none for equal rates."""
    lora: LoraConfig | None = None
    """Low-rank adapters instead of the towers' weights; they are merged into the weights that are saved."""
    patch_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of a vision transformer's patches left out of each training step; the saved model sees all of them."""
    channels_last: bool = False
    """Whether the image tower keeps its channels last in memory, which is faster for many convolutional towers."""
    compile: bool = False
    """Whether towers are compiled by `torch.compile`: the first steps take minutes, the others less time."""

    @model_validator(mode="after")
    def _fits_together(self) -> "ModelConfig":
        for tower in ("image", "text"):
            groups = getattr(self, f"unlocked_{tower}_groups")
            if groups and not getattr(self, f"lock_{tower}"):
                raise ValueError(f"unlocked_{tower}_groups: {groups} needs lock_{tower}: true")
            if groups and self.lora:
                raise ValueError(f"unlocked_{tower}_groups: {groups} and lora exclude each other: adapters or weights")
        if self.lock_image and self.lock_text and not self.unlocked_image_groups + self.unlocked_text_groups:
            raise ValueError("lock_image and lock_text leave nothing to train; unlock one, or some of its groups")
        brings_weights = self.architecture.startswith(("local-dir:", "hf-hub:"))
        if self.word_vectors and (self.pretrained or brings_weights):
            raise ValueError(
                f"word_vectors start a tower from nothing, and {self.pretrained or self.architecture!r} brings its "
                "own token embeddings; leave word_vectors out"
            )
        if self.pretrained and brings_weights:
            raise ValueError(
                f"pretrained: {self.pretrained!r}: {self.architecture!r} brings its own weights; leave pretrained out"
            )
        return self


@dataclass
class DualEncoder:
    """An image tower and a text tower with their tokenizer."""

    network: torch.nn.Module
    """open_clip's `CLIP` or `CustomTextCLIP`, whose text tower may be ours (`pairloom.models.recurrent`)."""
    tokenizer: Any
    """open_clip's tokenizer: list of B texts → int64 (B, L)."""
    config: dict[str, Any]
    """`model_cfg` and `preprocess_cfg`, as in `open_clip_config.json`; with `text_cfg` of the text tower there is."""
    tokenizer_files: dict[str, bytes]
    """Files that the tokenizer is loaded from, kept as they came; none for open_clip's built-in tokenizer."""
    second: SecondImageTowerConfig | None = None
    """Which items the second image tower encodes, where there is one."""

    @property
    def image_towers(self) -> dict[str, torch.nn.Module]:
        """The image towers by the beginning of their weights' names in the network's state."""
        prefixes = ("visual.", PREFIX) if self.second else ("visual.",)
        return {prefix: self.network.get_submodule(prefix[:-1]) for prefix in prefixes}

    @property
    def device(self) -> torch.device:
        """Where the weights are, and so where inputs are moved to."""
        return next(self.network.parameters()).device

    @property
    def context_length(self) -> int:
        """Tokens a text is cut or padded to."""
        return int(self.tokenizer.context_length)

    @property
    def preprocess_cfg(self) -> dict[str, Any]:
        """open_clip's complete preprocessing settings, with the image size of the tower."""
        settings: dict[str, Any] = dict(self.network.visual.preprocess_cfg)  # type: ignore[union-attr,arg-type]
        return settings

    def encode_images(self, image_BCHW: torch.Tensor, second_B: torch.Tensor | None = None) -> torch.Tensor:
        """L2-normalised embeddings (B, D) of normalised pixels.

        `second_B` (bool) are the rows for the second image tower; none, or none to take them, leaves all to the first.
        """
        image_BCHW = image_BCHW.to(self.device)
        if self.second and second_B is not None:
            return encode_apart(self.network, image_BCHW, second_B.to(self.device))
        embedding_BD: torch.Tensor = self.network.encode_image(image_BCHW, normalize=True)  # type: ignore[operator]
        return embedding_BD

    def encode_texts(self, token_BL: torch.Tensor) -> torch.Tensor:
        """L2-normalised embeddings (B, D) of token ids, which may be trimmed by `trim`."""
        # open_clip's text tower adds all positions and the whole causal mask; give it as many as there are tokens. One
        # with a class token has a position more, and is never trimmed.
        token_BL = token_BL.to(self.device)
        length, shorter = token_BL.shape[1], {}
        for name in ("", "text."):
            module = self.network if not name else getattr(self.network, "text", None)
            positions = getattr(module, "positional_embedding", None)
            mask = getattr(module, "attn_mask", None)
            if positions is not None and mask is not None and length < self.context_length:
                shorter[f"{name}positional_embedding"] = positions[:length]
                shorter[f"{name}attn_mask"] = mask[:length, :length]
        if not shorter:
            whole_BD: torch.Tensor = self.network.encode_text(token_BL, normalize=True)  # type: ignore[operator]
            return whole_BD
        output = torch.func.functional_call(self.network, shorter, kwargs={"text": token_BL})
        trimmed_BD: torch.Tensor = output["text_features"] if isinstance(output, dict) else output[1]
        return trimmed_BD

    def tokenize(self, texts: Sequence[str]) -> torch.Tensor:
        """Token ids, int64 (B, context_length)."""
        tokens: torch.Tensor = self.tokenizer(list(texts))
        return tokens

    def trim(self, token_BL: torch.Tensor) -> torch.Tensor:
        """The tokens cut to the longest text of the batch, where that can't change an embedding.

        Exact for a causal text tower that pools at the end-of-text token, and for a recurrent one: what comes after it
        is never looked at.
        """
        ends_B = self._end_positions(token_BL)
        return token_BL if ends_B is None else token_BL[:, : int(ends_B.max()) + 1]

    def _end_positions(self, token_BL: torch.Tensor) -> torch.Tensor | None:
        """Where each text ends (B,), or none where trimming isn't exact."""
        text_cfg = self.config["model_cfg"]["text_cfg"]
        if "hf_model_name" in text_cfg or text_cfg.get("embed_cls") or text_cfg.get("no_causal_mask"):
            return None
        match "eos" if "lstm" in text_cfg else text_cfg.get("pool_type", "argmax"):
            case "argmax":
                return token_BL.argmax(dim=1)
            case "eos":
                end_id: int = text_cfg.get("eos_id", 2)
                return torch.eq(token_BL, end_id).int().argmax(dim=1)
        return None

    def save(self, directory: Path) -> None:
        """Writes the OpenCLIP directory: config, weights, tokenizer. Equal encoders give equal bytes.

        A recurrent text tower, which open_clip can't build, and a second image tower go into folders of their own.
        """
        directory.mkdir(parents=True, exist_ok=True)
        config = recurrent.open_clip_config(self.config)
        (directory / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        weights, text_weights = recurrent.split_weights(self.network, self.config)
        own = {name: weights.pop(name) for name in list(weights) if self.second and name.startswith(PREFIX)}
        (directory / WEIGHTS_NAME).write_bytes(save(weights))
        if text_weights is not None:
            recurrent.save_tower(directory, self.config, text_weights)
        if self.second:
            save_second_tower(directory, self.second, {name.removeprefix(PREFIX): own[name] for name in own})
        for name, content in self.tokenizer_files.items():
            (directory / name).write_bytes(content)


def best_device() -> torch.device:
    """The first GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def create(config: ModelConfig, texts: Sequence[str], *, seed: int) -> DualEncoder:
    """A dual encoder to start training from: pretrained, or initialised at random from `seed`.

    An architecture with a fitted vocabulary fits it on `texts`. ValueError where nothing has the architecture's name.
    """
    encoder = _created(config, texts, seed)
    if (wanted := config.second_image_tower) is not None:
        # An OpenCLIP directory may bring its own.
        if encoder.second is None:
            other = encoder if wanted.seed is None else _created(config, texts, wanted.seed)
            add_second_tower(encoder.network, other.network)
        encoder.second = wanted
    return encoder


def _created(config: ModelConfig, texts: Sequence[str], seed: int) -> DualEncoder:
    """The encoder without what `second_image_tower` adds."""
    name = config.architecture
    if name.startswith("local-dir:"):
        with _explained(config):
            return load(Path(name.removeprefix("local-dir:")))
    file = _architecture_file(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if file is None:
            return _create_from_open_clip(config)
        if config.pretrained is not None and not Path(config.pretrained).is_file():
            raise ValueError(
                f"model.pretrained: {config.pretrained!r} is no file; {name!r} is no open_clip model, so it has no tags"
            )
        architecture = _read_config(file)
        with tempfile.TemporaryDirectory() as folder:
            text_cfg = architecture["model_cfg"]["text_cfg"]
            if text_cfg.get("hf_tokenizer_name") == FITTED:
                tokenizer = fit_vocabulary(texts, text_cfg["vocab_size"])
                text_cfg |= {"vocab_size": tokenizer.get_vocab_size(), "pad_id": PADDING_ID, "eos_id": END_OF_TEXT_ID}
                save_vocabulary(tokenizer, Path(folder), text_cfg["context_length"])
            plain = recurrent.open_clip_config(architecture)
            (Path(folder) / CONFIG_NAME).write_text(json.dumps(plain), encoding="utf-8")
            with _without_warnings():
                encoder = _open(Path(folder), architecture)
        if config.pretrained is not None:
            with _explained(config):
                _open_clip().load_checkpoint(encoder.network, config.pretrained)
        return encoder


def load(directory: Path) -> DualEncoder:
    """The dual encoder of an OpenCLIP directory. ValueError where a file is missing."""
    for name, names in ((CONFIG_NAME, (CONFIG_NAME,)), (WEIGHTS_NAME, WEIGHTS_PATTERNS)):
        if not any(file.is_file() for pattern in names for file in directory.glob(pattern)):
            raise ValueError(f"{directory}: no {name}; an OpenCLIP directory holds {CONFIG_NAME} and {WEIGHTS_NAME}")
    config = _read_config(directory / CONFIG_NAME)
    if text_cfg := recurrent.saved_text_cfg(directory):
        config["model_cfg"]["text_cfg"] = text_cfg
    encoder = _open(directory, config)
    if text_cfg:
        recurrent.load_weights(encoder.network, directory)
    encoder.second = load_second_tower(directory, encoder.network)
    encoder.network.eval()
    return encoder


def _open(directory: Path, config: dict[str, Any]) -> DualEncoder:
    open_clip = _open_clip()
    source = f"local-dir:{directory.resolve()}"
    network = open_clip.create_model(source)
    recurrent.put_tower(network, config)
    return DualEncoder(
        network=network,
        tokenizer=open_clip.get_tokenizer(source),
        config=config,
        tokenizer_files=_tokenizer_files(directory),
    )


def _create_from_open_clip(config: ModelConfig) -> DualEncoder:
    open_clip, name = _open_clip(), config.architecture
    on_hub = name.startswith("hf-hub:")
    name = name if on_hub else name.replace("/", "-")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if config.pretrained not in (None, *tags) and not Path(str(config.pretrained)).is_file():
        raise ValueError(
            f"model.pretrained: {config.pretrained!r} is neither a file nor one of {name}'s tags: {', '.join(tags)}"
        )
    with _explained(config):
        # Without `require_pretrained`, open_clip only warns where a hub's weights are missing, and starts from nothing.
        network = open_clip.create_model(
            name, pretrained=config.pretrained, require_pretrained=on_hub or config.pretrained is not None
        )
        tokenizer = open_clip.get_tokenizer(name)
        model_cfg = copy.deepcopy(open_clip.get_model_config(name))
    with tempfile.TemporaryDirectory() as folder:
        if "hf_tokenizer_name" in model_cfg["text_cfg"]:
            tokenizer.save_pretrained(folder)
        files = _tokenizer_files(Path(folder))
    preprocess_cfg = {key: value for key, value in network.visual.preprocess_cfg.items() if key != "size"}
    return DualEncoder(network, tokenizer, {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}, files)


def _architecture_file(name: str) -> Path | None:
    """Our config file, or none where open_clip knows the name."""
    ours = {file.stem: file for file in sorted(ARCHITECTURES.glob("*.json"))}
    if name in ours:
        return ours[name]
    if name.endswith(".json"):
        if Path(name).is_file():
            return Path(name)
        raise ValueError(f"model.architecture: there is no file {name}; our own architectures are {', '.join(ours)}")
    theirs = _open_clip().list_models()
    if name.startswith("hf-hub:") or name.replace("/", "-") in theirs:
        return None
    near = difflib.get_close_matches(name, [*ours, *theirs], n=3, cutoff=0.3)
    raise ValueError(
        f"model.architecture: nothing is called {name!r}; nearest: {', '.join(near) or 'none'}. Our own are "
        f"{', '.join(ours)}; also any open_clip model, a .json file, local-dir:DIR or hf-hub:ORG/NAME"
    )


@contextmanager
def _explained(config: ModelConfig) -> Iterator[None]:
    """ValueError, in one line with the way out, for what open_clip and the hub raise about missing or other weights."""
    try:
        yield
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        if config.pretrained is not None and Path(config.pretrained).is_file():
            raise ValueError(
                f"model.pretrained: {config.pretrained} doesn't hold plain weights of {config.architecture!r}: {reason}"
            ) from error
        if config.architecture.startswith("local-dir:"):
            raise ValueError(f"model.architecture: {config.architecture!r} can't be loaded: {reason}") from error
        of = f" with the weights {config.pretrained!r}" if config.pretrained else ""
        raise ValueError(
            f"model: {config.architecture!r}{of} needs files that aren't on this machine and couldn't be downloaded. "
            "Fetch them where the hub can be reached and copy its cache (HF_HOME), or give a weights file as "
            f"pretrained, or an OpenCLIP directory as architecture: local-dir:DIR. The reason: {reason}"
        ) from error


@contextmanager
def _without_warnings() -> Iterator[None]:
    """For a start from nothing: open_clip warns, through the root logger, that it finds no weights."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _open_clip() -> Any:
    # Seconds to import: a night that finds nothing to do, and every form of a deployment, go without.
    import open_clip

    return open_clip


def _read_config(file: Path) -> dict[str, Any]:
    config = json.loads(file.read_text(encoding="utf-8"))
    # open_clip's own architecture files are the bare model_cfg.
    config = config if "model_cfg" in config else {"model_cfg": config}
    missing = {"embed_dim", "vision_cfg", "text_cfg"} - set(config["model_cfg"])
    if missing:
        raise ValueError(f"{file}: model_cfg lacks {', '.join(sorted(missing))}")
    try:
        recurrent.text_config(config)
    except ValidationError as error:
        fault = error.errors()[0]
        raise ValueError(f"{file}: text_cfg.{'.'.join(map(str, fault['loc']))}: {fault['msg']}") from error
    return {"preprocess_cfg": {}, **config}


def _tokenizer_files(directory: Path) -> dict[str, bytes]:
    files = sorted(file for file in directory.iterdir() if file.is_file() and TOKENIZER_FILES.fullmatch(file.name))
    return {file.name: file.read_bytes() for file in files}
