"""Another engine for a model."""

from __future__ import annotations

from dataclasses import replace

from patchword.api.model import Model
from patchword.engines import choose
from patchword.engines.graph import Shapes
from patchword.tasks import label_cache


def on_engine(model: Model, name: str) -> Model:
    """The model, its vectors computed by the engine of that name. Graphs are kept in the cache, by
    the model's fingerprint. Raises UnsupportedError, see `choose.engine`."""
    config = model.config
    text = config.text if config.embed_dim or not config.blip else None
    shapes = Shapes(
        size=config.preprocess.size if config.vision else None,
        context=text.context if text else None,
        full=text is not None and text.padding == "attended",
        own=config.preprocess.resize == "patches",
        levels=model.preprocess.levels,
    )
    folder = label_cache.folder().parent / "graphs-2" / model.fingerprint
    return replace(model, engine=choose.engine(name, model.network, shapes, folder))
