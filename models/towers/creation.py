"""A dual encoder to start training from: pretrained, or initialised at random."""

import copy
import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import torch

from pairloom.models.towers import recurrent
from pairloom.models.towers.cell_start import start_from_cells
from pairloom.models.towers.config import ModelConfig
from pairloom.models.towers.dual_encoder import DualEncoder, load, open_network
from pairloom.models.towers.edge_start import start_from_edges
from pairloom.models.towers.image_weights import load_image_weights
from pairloom.models.towers.layout import CONFIG_NAME, read_config, tokenizer_files
from pairloom.models.towers.names import architecture_file, image_package, require_towers
from pairloom.models.towers.opening import UNREADABLE, advises, open_model, open_tokenizer, reason
from pairloom.models.towers.package_words import common_words
from pairloom.models.towers.second_tower import add_second_tower
from pairloom.models.towers.texture_start import start_from_textures
from pairloom.models.towers.vocabulary import END_OF_TEXT_ID, PADDING_ID, add_words, fit_vocabulary, save_vocabulary

FITTED = "fitted"  # an architecture's `hf_tokenizer_name` that asks for a vocabulary fitted to the corpus
WITH_PACKAGE = 49_152
"""Tokens of a fitted vocabulary that is filled up with a package's words for a start in closed form: of 151 words that
emoji names of the validation split have and others don't, half are among the package's first 33,000."""
EDGES, TEXTURES, CELLS = "edges", "textures", "cells"
"""An architecture's `start`, beside `model_cfg`, where its image tower, or the end of it, is written by hand."""


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
    require_towers(config)
    name = config.architecture
    if name.startswith("local-dir:"):
        with _explained(config):
            return load(Path(name.removeprefix("local-dir:")))
    file = architecture_file(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if file is None:
            return _create_from_open_clip(config)
        architecture = read_config(file)
        with tempfile.TemporaryDirectory() as folder:
            text_cfg = architecture["model_cfg"]["text_cfg"]
            if text_cfg.get("hf_tokenizer_name") == FITTED:
                tokenizer = fit_vocabulary(texts, text_cfg["vocab_size"], rare=config.closed_form_start)
                if isinstance(config.word_vectors, str):
                    size = WITH_PACKAGE if config.closed_form_start else text_cfg["vocab_size"]
                    add_words(tokenizer, common_words(config.word_vectors), size)
                text_cfg |= {"vocab_size": tokenizer.get_vocab_size(), "pad_id": PADDING_ID, "eos_id": END_OF_TEXT_ID}
                save_vocabulary(tokenizer, Path(folder), text_cfg["context_length"])
            written = architecture.pop("start", None)
            plain = recurrent.open_clip_config(architecture)
            (Path(folder) / CONFIG_NAME).write_text(json.dumps(plain), encoding="utf-8")
            with _without_warnings():
                encoder = open_network(Path(folder), architecture)
        if written == EDGES:
            start_from_edges(encoder.network.visual)
        if written == TEXTURES:
            start_from_textures(encoder.network.visual)
        if package := image_package(config):
            (weights,) = package.paths()
            load_image_weights(encoder.network, weights)
        elif config.pretrained is not None:
            with _explained(config):
                open_clip.load_checkpoint(encoder.network, config.pretrained, weights_only=True)
        if written == CELLS:
            if config.pretrained is None:
                raise ValueError(
                    f"model.architecture: {name!r} looks with the weights of others; leave pretrained as it is"
                )
            start_from_cells(getattr(encoder.network.visual, "trunk", None))
        return encoder


def _create_from_open_clip(config: ModelConfig) -> DualEncoder:
    name = config.architecture
    on_hub = name.startswith("hf-hub:")
    name = name if on_hub else name.replace("/", "-")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if config.pretrained not in (None, *tags) and not Path(str(config.pretrained)).is_file():
        raise ValueError(
            f"model.pretrained: {config.pretrained!r} is neither a file nor one of {name}'s tags: {', '.join(tags)}"
        )
    with _explained(config):
        # Without `require_pretrained`, open_clip only warns where a hub's weights are missing, and starts from nothing.
        network: Any = open_model(
            name, pretrained=config.pretrained, require_pretrained=on_hub or config.pretrained is not None
        )
        model_cfg = copy.deepcopy(open_clip.get_model_config(name))
        tokenizer = open_tokenizer(name, model_cfg["text_cfg"])
    with tempfile.TemporaryDirectory() as folder:
        if "hf_tokenizer_name" in model_cfg["text_cfg"]:
            tokenizer.save_pretrained(folder)
        files = tokenizer_files(Path(folder))
    preprocess_cfg = {key: value for key, value in network.visual.preprocess_cfg.items() if key != "size"}
    return DualEncoder(network, tokenizer, {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}, files)


@contextmanager
def _explained(config: ModelConfig) -> Iterator[None]:
    """ValueError, in one line with the way out, for what open_clip and the hub raise about missing or other weights."""
    try:
        yield
    except (*UNREADABLE, ValueError) as error:
        if isinstance(error, ValueError) and not advises(error):
            raise
        why = reason(error)
        if config.pretrained is not None and Path(config.pretrained).is_file():
            raise ValueError(
                f"model.pretrained: {config.pretrained} doesn't hold plain weights of {config.architecture!r}: {why}"
            ) from error
        if config.architecture.startswith("local-dir:"):
            raise ValueError(f"model.architecture: {config.architecture!r} can't be loaded: {why}") from error
        of = f" with the weights {config.pretrained!r}" if config.pretrained else ""
        raise ValueError(
            f"model: {config.architecture!r}{of} needs files that aren't on this machine and couldn't be downloaded. "
            "Fetch them where the hub can be reached and copy its cache (HF_HOME), or give a weights file as "
            f"pretrained, or an OpenCLIP directory as architecture: local-dir:DIR. The reason: {why}"
        ) from error


@contextmanager
def _without_warnings() -> Iterator[None]:
    """For a start from nothing: open_clip warns, through the root logger, that it finds no weights."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
