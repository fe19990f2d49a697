"""A model's towers as ONNX graphs, whose weights stay where they are: in the safetensors files beside them."""

# B = batch, L = tokens, D = embedding

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from torch import nn

from pairloom.models.towers import recurrent, second_tower
from pairloom.models.towers.attention import plain_attention
from pairloom.models.towers.dual_encoder import DualEncoder
from pairloom.models.towers.layout import WEIGHTS_NAME

INPUT, OUTPUT = "input", "embedding"
OPSET = 17
WEIGHTS = {
    WEIGHTS_NAME: "",
    f"{recurrent.TEXT_TOWER}/{recurrent.WEIGHTS}": "text.",
    f"{second_tower.FOLDER}/{second_tower.WEIGHTS_NAME}": second_tower.PREFIX,
}
"""Files of weights in a model's folder, and how the network calls what is in them. Later ones are looked up first."""


class TextGraph(nn.Module):
    """Token ids (B, L) → L2-normalised embeddings (B, D); L is at most the context length."""

    def __init__(self, encoder: DualEncoder) -> None:
        super().__init__()
        self.network = encoder.network
        self.any_length = encoder.text_end is not None

    def forward(self, token_BL: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, D)."""
        with _cut(self.network, token_BL.shape[1]) if self.any_length else warnings.catch_warnings():
            embedding_BD: torch.Tensor = self.network.encode_text(token_BL, normalize=True)  # type: ignore[operator]
        return embedding_BD


class ImageGraph(nn.Module):
    """Normalised pixels (B, 3, H, W) → L2-normalised embeddings (B, D), by one image tower."""

    def __init__(self, encoder: DualEncoder, prefix: str) -> None:
        super().__init__()
        self.network = encoder.network
        self.prefix = prefix

    def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, D)."""
        if self.prefix == second_tower.PREFIX:
            return F.normalize(self.network.get_submodule("second.visual")(image_BCHW), dim=-1)
        embedding_BD: torch.Tensor = self.network.encode_image(image_BCHW, normalize=True)  # type: ignore[operator]
        return embedding_BD


def write_graph(graph: nn.Module, example: torch.Tensor, axes: Sequence[str], directory: Path, name: str) -> None:
    """Writes `<directory>/<name>`, which takes inputs like `example` with any length of the `axes`, its first ones.

    Raises whatever torch raises over a network that can't be written so.
    """
    file = directory / name
    graph.eval()
    with torch.no_grad(), plain_attention(graph), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph,
            (example,),
            file,
            dynamo=False,
            export_params=False,
            do_constant_folding=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: dict(enumerate(axes)), OUTPUT: {0: axes[0]}},
            opset_version=OPSET,
        )
    model = onnx.load(file)
    _put_weights(model.graph, graph, directory)
    file.write_bytes(model.SerializeToString(deterministic=True))


def _put_weights(graph: Any, module: nn.Module, directory: Path) -> None:
    """Has the graph's inputs that are weights read from the files in `directory`, or holds those that are in none."""
    places = {name: place for file in WEIGHTS for name, place in _places(directory, file)}
    tensors = dict([*module.named_parameters(), *module.named_buffers()])
    inputs = list(graph.input)
    del graph.input[:]
    for each in inputs:
        if each.name not in tensors:
            graph.input.append(each)
            continue
        tensor = tensors[each.name].detach().cpu().contiguous()
        place = places.get(each.name.removeprefix("network."))
        if place is None or not place.holds(tensor):
            graph.initializer.append(onnx.numpy_helper.from_array(tensor.numpy(), each.name))
            continue
        kind = onnx.helper.np_dtype_to_tensor_dtype(tensor.numpy().dtype)
        stored = onnx.TensorProto(name=each.name, data_type=kind, dims=tensor.shape)
        stored.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", place.file), ("offset", place.start), ("length", place.length)):
            stored.external_data.add(key=key, value=str(value))
        graph.initializer.append(stored)


@dataclass(frozen=True)
class _Place:
    """Where in a safetensors file a tensor's bytes are."""

    directory: Path
    file: str
    start: int
    length: int

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether the bytes there are those of a tensor."""
        content = tensor.numpy().tobytes()
        with (self.directory / self.file).open("rb") as stored:
            stored.seek(self.start)
            return stored.read(self.length) == content


def _places(directory: Path, file: str) -> Iterator[tuple[str, _Place]]:
    """The tensors of a safetensors file: its header's length in eight bytes, its header in JSON, their bytes."""
    if not (directory / file).is_file():
        return
    with (directory / file).open("rb") as stored:
        length = int.from_bytes(stored.read(8), "little")
        header = json.loads(stored.read(length))
    for name, said in header.items():
        if name != "__metadata__":
            start, end = said["data_offsets"]
            yield WEIGHTS[file] + name, _Place(directory, file, 8 + length + start, end - start)


@contextmanager
def _cut(network: nn.Module, length: int) -> Iterator[None]:
    """Gives a text tower of open_clip's as many positions as there are tokens, and as much of its causal mask.

    `length` may be one that torch traces: the graph then cuts them to its own input's.
    """
    put_away: list[tuple[dict[str, Any], str, Any]] = []
    for module in (network, getattr(network, "text", None)):
        positions, mask = (getattr(module, name, None) for name in ("positional_embedding", "attn_mask"))
        if module is None or positions is None or mask is None:
            continue
        # In their places: torch names the graph's weights by their order.
        for held, name, cut in (
            (module._parameters, "positional_embedding", positions[:length]),
            (module._buffers, "attn_mask", mask[:length, :length]),
        ):
            put_away.append((held, name, held[name]))
            held[name] = cut
    try:
        yield
    finally:
        for held, name, whole in put_away:
            held[name] = whole
