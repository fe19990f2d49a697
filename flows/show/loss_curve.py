"""Tonight's training as a picture for the report: loss, learning rate, and how far the embeddings spread."""

import io
from collections.abc import Sequence

from pairloom.flows.show.markdown import table
from pairloom.search.sheet import data_uri
from pairloom.storage.modelstore import ModelStore
from pairloom.tasks.pipeline import Pipeline

PANELS = {
    "loss": ("loss",),
    "learning rate": ("lr",),
    "gradient norm": ("grad_norm",),
    "variance of embeddings": ("image_variance", "text_variance"),
}


def curve_section(pipeline: Pipeline, model_id: str | None) -> list[str]:
    """The lines of the section; none for a night without training."""
    lines = ModelStore(pipeline.folder).curve(model_id) if model_id else []
    if not lines:
        return []
    last, wait = lines[-1], sum(line["data_wait"] for line in lines) / len(lines)
    facts = {
        "steps": f"{last['step']:,.0f}",
        "samples/s": f"{sum(line['samples_per_second'] for line in lines) / len(lines):,.0f}",
        "waiting for data": f"{wait:.1%}",
        "loss": f"{last['loss']:.3f}",
        "logit scale": f"{last['logit_scale']:.1f}",
    }
    if "mfu" in last:
        facts["of the GPU's peak"] = f"{last['mfu']:.1%}"
    picture = data_uri(curve_picture(lines))
    title = ["## How it learned", "", f"![Loss, learning rate, gradient norm and variance by step]({picture})", ""]
    return title + table("training", list(facts), [["", *facts.values()]])


def curve_picture(lines: Sequence[dict[str, float]]) -> bytes:
    """A panel a measure over the steps, as a WebP of 900 × 220 pixels."""
    # Half a second to import, for nights that train.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.2), dpi=100, layout="constrained")
    for place, (title, names) in enumerate(PANELS.items(), 1):
        panel = figure.add_subplot(1, len(PANELS), place)
        for name in names:
            own = [line for line in lines if name in line]  # objectives may leave a side out
            label = "images" if name.startswith("image") else "texts"
            panel.plot([line["step"] for line in own], [line[name] for line in own], linewidth=1, label=label)
        panel.set_title(title, fontsize=9)
        panel.tick_params(labelsize=7)
        panel.set_xlabel("step", fontsize=7)
        if len(names) > 1:
            panel.legend(fontsize=7)
    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(stream, format="webp")
    return stream.getvalue()
