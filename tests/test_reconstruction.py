from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tiny import tiny_encoder, tiny_items

from pairloom.models.objectives.batch import Setting
from pairloom.models.objectives.config import ClipConfig, Objective, ReconstructionConfig
from pairloom.models.objectives.reconstruction import squared_errors
from pairloom.models.towers.dual_encoder import load
from pairloom.models.towers.layout import WEIGHTS_NAME
from pairloom.models.training.config import TrainingConfig
from pairloom.models.training.trainer import Recipe, TrainingResult, train


def trained(folder: Path, name: str, *objectives: Objective, steps: int = 5) -> TrainingResult:
    start = tiny_encoder(folder)
    config = TrainingConfig(max_minutes=None, max_steps=steps, batch_size=16, threads=1, warmup_fraction=0)
    return train(start, tiny_items(folder, start), Recipe(config, objectives), workdir=folder / name)


def test_the_error_of_a_shrunk_image_matches_nested_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    decoded, image = torch.rand(2, 3, 2, 3, generator=generator), torch.rand(2, 3, 4, 9, generator=generator)
    expected = []
    for one, other in zip(decoded, image, strict=True):
        total = 0.0
        for colour in range(3):
            for row in range(2):
                for column in range(3):
                    pixels = other[colour, 2 * row : 2 * row + 2, 3 * column : 3 * column + 3]
                    total += (float(one[colour, row, column]) - float(pixels.sum()) / 6) ** 2
        expected.append(total / 18)
    torch.testing.assert_close(squared_errors(decoded, image), torch.tensor(expected))


def test_the_decoder_learns_to_draw_what_it_is_shown(tmp_path: Path) -> None:
    first = trained(tmp_path, "short", ReconstructionConfig(), steps=1).loss
    assert trained(tmp_path, "long", ReconstructionConfig(), steps=80).loss < 0.5 * first


def test_the_decoder_is_no_larger_than_the_images(tmp_path: Path) -> None:
    term = ReconstructionConfig(width=4).build(Setting(tiny_encoder(tmp_path), 32, 0))
    decoded = term.get_submodule("decoder")(F.normalize(torch.randn(2, 16), dim=1))
    assert decoded.shape == (2, 3, 16, 16)


def test_the_saved_model_holds_no_decoder(tmp_path: Path) -> None:
    plain = trained(tmp_path, "plain", ClipConfig())
    both = trained(tmp_path, "both", ClipConfig(), ReconstructionConfig(weight=2))
    folders = [tmp_path / "plain-model", tmp_path / "both-model"]
    for result, folder in zip((plain, both), folders, strict=True):
        result.encoder.save(folder)
        result.objectives.save_kept(folder)
    names = [sorted(str(file.relative_to(folder)) for file in folder.rglob("*")) for folder in folders]
    assert names[0] == names[1]
    one, other = (load_file(folder / WEIGHTS_NAME) for folder in folders)
    assert {name: tensor.shape for name, tensor in one.items()} == {n: tensor.shape for n, tensor in other.items()}
    assert not torch.equal(one["visual.proj"], other["visual.proj"])  # it was trained by both
    image_BCHW = torch.zeros(1, 3, 16, 16)
    assert load(folders[1]).encode_images(image_BCHW).shape == (1, 16)
