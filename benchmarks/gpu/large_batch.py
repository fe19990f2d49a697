"""A batch that no GPU holds at once: GradCache with the streamed loss, and the loss alone beside open_clip's."""

# B = batch, D = embedding

import open_clip
import torch

from benchmarks.gpu.measures import Part, encoder_of, made_up_texts, peak_gib
from pairloom.models.batches.feed import ReadyBatch
from pairloom.models.batches.targets import Targets
from pairloom.models.geometry import Geometry
from pairloom.models.objectives.clip import clip_loss
from pairloom.models.training.micro_batches import MicroBatches


def run(part: Part) -> None:
    """Two lines for the loss, one for the whole step."""
    part.measure("loss alone, ours", lambda: _loss_alone(part, streamed=True))
    part.measure("loss alone, open_clip.ClipLoss", lambda: _loss_alone(part, streamed=False))
    part.measure("step by GradCache and the streamed loss", lambda: _step(part))


def diagonal(count: int, device: torch.device) -> Targets:
    """Each item's own text is its only positive."""
    rows_B, ones_B = torch.arange(count, device=device), torch.ones(count, device=device)
    return Targets(rows_B, rows_B, ones_B, ones_B)


def _loss_alone(part: Part, *, streamed: bool) -> dict[str, object]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count, width = part.sizes.large_batch, part.sizes.width
    sides = torch.nn.functional.normalize(torch.randn(2, count, width, device=device), dim=2)
    image_BD, text_BD = (side.clone().requires_grad_() for side in sides)
    scale, targets, dense = torch.tensor(14.3, device=device), diagonal(count, device), open_clip.ClipLoss()

    def once() -> None:
        loss = clip_loss(image_BD, text_BD, targets, scale) if streamed else dense(image_BD, text_BD, scale)
        loss.backward()

    once()
    spent, held = peak_gib(once)
    return {"batch": count, "width": width, "seconds": spent, "peak_gib": held}


def _step(part: Part) -> dict[str, object]:
    count, architecture = part.sizes.large_batch, part.sizes.architectures[0]
    texts = made_up_texts(count)
    encoder = encoder_of(architecture, texts)
    encoder.network.train()
    geometry, device = Geometry.of(encoder.preprocess_cfg), encoder.device
    half = device.type == "cuda"
    image_BCHW = torch.randn(
        count, 3, geometry.height, geometry.width, device=device, dtype=torch.bfloat16 if half else None
    )
    rows_B = torch.arange(count, device=device)
    token_UL = encoder.trim(encoder.tokenize([own[0] for own in texts])).to(device)
    batch = ReadyBatch(0, count, rows_B, image_BCHW, token_UL, rows_B, diagonal(count, device))
    towers = MicroBatches(encoder, part.sizes.micro_batch, half=half, seed=(0,))

    def once() -> None:
        sides = towers.embed(batch)
        scale = encoder.network.logit_scale.exp()  # type: ignore[operator]  # torch types modules' attributes loosely
        towers.backward(clip_loss(sides["image"], sides["text"], batch.targets, scale))

    spent, held = peak_gib(once)
    facts = {"architecture": architecture, "batch": count, "micro_batch": part.sizes.micro_batch}
    return {**facts, "seconds": spent, "samples_per_second": count / spent, "peak_gib": held}
