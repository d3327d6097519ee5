"""How the encoders were trained: settings and curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from markupsafe import Markup

from sepclr_med.report import blocks
from sepclr_med.report.collect import dig
from sepclr_med.report.figures import Curve, draw_curves
from sepclr_med.report.methods_model import name_chain, name_encoder
from sepclr_med.report.wording import as_number, format_count, format_figure, format_seconds, plural

PANELS = {
    "objective": {"total": ""},
    "common space": {"common_alignment": "alignment", "common_uniformity": "uniformity"},
    "salient space": {"salient_alignment": "alignment", "salient_uniformity": "uniformity"},
    "null vector": {"null_salient": ""},
    "joint entropy": {"joint_entropy": ""},
    "norm of the salient head": {"salient_norm_background": "background", "salient_norm_target": "target"},
}


def describe_training(data: Mapping[str, Any]) -> blocks.Block | None:
    """Return the section on training, or None when there is neither a history nor a configuration.

    Parameters
    ----------
    data : mapping
        From :func:`sepclr_med.report.collect.collect_run`.

    Returns
    -------
    dict or None
    """
    history = data["tables"].get("history")
    if history is None and not any(step.get("step") == "fit" for step in data["steps"]):
        return None
    drawings = draw_history(history) if history is not None else []
    parts = [
        blocks.facts(_settings(data)),
        blocks.figure(drawings, f"{_caption(data, history)} All values are in history.tsv."),
    ]
    return blocks.section("training", "Training", parts)


def _caption(data: Mapping[str, Any], history: pd.DataFrame | None) -> str:
    lower = (
        "Lower is better, except for the norms, mean lengths of the salient head's output: the target's should stay "
        "above the background's, which is pulled to zero."
    )
    watched = history.filter(regex="^val_").notna().any(axis=1).sum() if history is not None else 0
    if not watched:
        return f"Every term of the objective against the epoch, in training. {lower}"
    every, size = (as_number(dig(data["config"], "training", key)) for key in ("validate_every", "batch_size"))
    often = f"measured every {plural(every, 'epoch')} and after the last" if every else "not measured in every epoch"
    line = "a mark without a line" if watched == 1 else "dashed, with marks"
    of_batch = f" (at most {format_count(size)} images)" if size else ""
    return (
        f"Every term of the objective against the epoch. Solid: training. Validation, which was watched and never "
        f"fitted, is {line}: it is {often}. {lower} The gap between training and validation does not measure "
        f"overfitting: uniformity, joint entropy and the objective depend on how many images a batch{of_batch} holds, "
        "of which validation may have fewer; and training normalises by the batch, validation by running averages, "
        "which lag in the first epochs. Compare a curve with its own past."
    )


def draw_history(history: pd.DataFrame) -> list[Markup]:
    """Return one drawing for each group of logged quantities that the history has.

    Examples
    --------
    >>> len(draw_history(pd.DataFrame({"epoch": [1, 2], "train_total": [3.0, 2.0]})))
    1
    """
    drawings = []
    epochs = history["epoch"].tolist()
    for title, names in PANELS.items():
        curves, ends = [], []
        for style, (name, label) in enumerate(names.items()):
            for part, dashed in (("train", False), ("val", True)):
                logged = history.get(f"{part}_{name}")
                values = None if logged is None else pd.to_numeric(logged, errors="coerce")
                if values is None or not values.notna().any():
                    continue
                curves.append(Curve("" if dashed else label, epochs, values.tolist(), style, dashed))
                words = f"{label} " if label else ""
                ends.append(
                    f"{words}{'validation' if dashed else 'training'} {format_figure(values.dropna().iloc[-1])}"
                )
        if curves:
            drawings.append(draw_curves(curves, title, f"At the last epoch: {', '.join(ends)}.", "epoch"))
    return drawings


def _settings(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    config = data["config"]
    fit: Mapping[str, Any] = next((step for step in reversed(data["steps"]) if step.get("step") == "fit"), {})
    weights = [dig(config, "method", name) for name in ("w_salient", "w_null", "w_joint")]
    dims = [dig(config, "method", name) for name in ("common_dim", "salient_dim")]
    spacing = dig(config, "volumes", "spacing")
    return [
        ("method", str(dig(config, "method", "name", default=""))),
        ("factors", f"{dims[0]} common, {dims[1]} salient" if None not in dims else ""),
        (
            "weights",
            "salient {}, null salient {}, joint entropy {}".format(*weights) if None not in weights else "",
        ),
        ("network", name_encoder(config)),
        (
            "images",
            name_chain(config)
            or " ".join(
                filter(None, [str(dig(config, "volumes", "preset", default="")), f"at {spacing} mm" if spacing else ""])
            ),
        ),
        ("epochs", format_count(dig(config, "training", "epochs")) if dig(config, "training", "epochs") else ""),
        ("seed", str(dig(config, "training", "seed", default=""))),
        ("device", str(fit.get("device", ""))),
        ("time", format_seconds(fit.get("seconds")) if fit.get("seconds") is not None else ""),
    ]
