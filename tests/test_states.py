from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_finetuning import TEXTS, TIMM, TIMM_VIT, architecture, images
from transformers import RobertaConfig, RobertaModel

from pairloom.models.objectives.pair_network import CrossEncoder
from pairloom.models.towers.config import ModelConfig
from pairloom.models.towers.creation import create
from pairloom.models.towers.dual_encoder import DualEncoder
from pairloom.models.towers.states import image_states, text_states

POOLED = {"image_size": 16, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16, "pool_type": "avg"}
TOKENS = TEXTS[:4]


def made(folder: Path, **changes: Any) -> DualEncoder:
    encoder = create(ModelConfig(architecture=architecture(folder, **changes)), TEXTS, seed=0)
    encoder.network.eval()
    return encoder


@pytest.mark.parametrize("custom_text", [False, True])
def test_pooled_tokens_are_the_embeddings(custom_text: bool, tmp_path: Path) -> None:
    encoder = made(tmp_path, custom_text=custom_text, vision=POOLED)
    visual: Any = encoder.network.visual
    read = image_states(encoder, images(encoder))
    patch_BPF = read.token_BPF
    assert patch_BPF.shape == (4, 4, 32)
    image_BD = F.normalize(visual.ln_post(patch_BPF).mean(dim=1) @ visual.proj, dim=1)
    torch.testing.assert_close(image_BD, encoder.encode_images(images(encoder)))
    torch.testing.assert_close(read.embedding_BD, image_BD)
    whole_UL = encoder.tokenize(TOKENS)
    tower: Any = encoder.network.text if custom_text else encoder.network
    for token_UL in (whole_UL, encoder.trim(whole_UL)):
        read = text_states(encoder, token_UL)
        token_ULF, real_UL = read.token_BPF, read.real_BP
        last_UF = token_ULF[torch.arange(4), real_UL.sum(dim=1) - 1]
        text_UD = F.normalize(last_UF @ tower.text_projection, dim=1)
        torch.testing.assert_close(text_UD, encoder.encode_texts(whole_UL), atol=1e-5, rtol=0)


@pytest.mark.parametrize("vision", [{**TIMM, "timm_model_name": "test_convnext"}, TIMM_VIT])
def test_a_cross_encoder_reads_the_tokens_of_other_image_towers(vision: dict[str, Any], tmp_path: Path) -> None:
    encoder = made(tmp_path, custom_text=True, vision={**vision, "image_size": 160})
    assert image_states(encoder, images(encoder)).token_BPF.shape[1] > 1
    assert score(encoder).shape == (4,)


def test_a_cross_encoder_reads_the_tokens_of_a_hugging_face_text_tower(tmp_path: Path) -> None:
    shape = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    roberta = RobertaModel(RobertaConfig(vocab_size=300, max_position_embeddings=32, **shape), add_pooling_layer=False)
    roberta.save_pretrained(tmp_path / "roberta")
    names = {"hf_model_name": str(tmp_path / "roberta"), "hf_proj_type": "linear", "hf_pooler_type": "mean_pooler"}
    encoder = made(tmp_path, **names)
    assert text_states(encoder, encoder.tokenize(TOKENS)).token_BPF.shape == (4, 8, 24)
    assert score(encoder).shape == (4,)


def test_a_text_tower_without_tokens_has_its_embedding_as_the_only_one(tmp_path: Path) -> None:
    encoder = made(tmp_path, custom_text=True)
    encoder.network.text = torch.nn.EmbeddingBag(300, 16)
    token_UL = encoder.tokenize(TOKENS)
    read = text_states(encoder, token_UL)
    torch.testing.assert_close(read.token_BPF[:, 0], encoder.encode_texts(token_UL))
    assert read.real_BP.shape == (4, 1)
    assert score(encoder).shape == (4,)


def score(encoder: DualEncoder) -> torch.Tensor:
    network, row = CrossEncoder(encoder, 16, 2, own_towers=False), torch.arange(4)
    read = network.read_images(images(encoder)), network.read_texts(encoder.trim(encoder.tokenize(TOKENS)))
    return network(*read, row, row)  # type: ignore[no-any-return]  # torch's call has no types
