"""How the embeddings were made, in words: the method, what its encoders saw, and the training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sepclr_med.method_settings import CLOSED_FORM, TWO_SPACES
from sepclr_med.report.collect import dig, texts
from sepclr_med.report.wording import as_number, plural, say_list

SEPCLR = (
    "Two encoders were trained with SepCLR [[sepclr]]: a common one for what varies in everyone, and a salient one for "
    "what varies among target participants only, which is pulled to the null vector for the background"
)
METHODS = {
    "sepclr": SEPCLR,
    "sepclr_paper": SEPCLR,
    "simclr": "One encoder was trained with SimCLR [[simclr]] on everyone",
    "y_aware": "One encoder was trained with y-aware contrastive learning [[yaware]] on everyone",
    "supervised": "One encoder was trained to tell the diagnoses apart",
    "vae": "A variational autoencoder [[vae]] was trained on everyone",
    "cvae": "A contrastive variational autoencoder [[cvae]] was trained",
    "mm_cvae": "A moment-matching contrastive variational autoencoder [[mmcvae]] was trained",
    "sepvae": "SepVAE [[sepvae]] was trained",
    "pca": "Principal components of the preprocessed voxels were taken",
    "cpca": "Contrastive principal components [[cpca]] of the preprocessed voxels were taken",
    "pcpca": "Probabilistic contrastive principal components [[pcpca]] of the preprocessed voxels were taken",
    "covariates": "No image was used: the embedding is the covariates",
}


def describe_model(data: Mapping[str, Any], safe: Callable[[Any], str]) -> str:
    """Return the paragraph on the representation; empty where nothing was trained.

    Parameters
    ----------
    data : mapping
        From :func:`sepclr_med.report.collect.collect_run`.
    safe : callable
        Turns words from the user's files into words that may be printed.

    Returns
    -------
    str
        With citations as ``[[key]]``.
    """
    config = data["config"]
    if not any(file.startswith(("history.tsv", "embeddings/")) for file in data["files"]) or not config:
        return ""
    parts = [_method(config, safe), _inputs(config, safe), _reference(data, safe), _erased(data, safe)]
    parts += [_training(config, safe), _cross_fit(data)]
    return "Representation. " + " ".join(part for part in parts if part)


def _method(config: Mapping[str, Any], safe: Callable[[Any], str]) -> str:
    method = dig(config, "method", default={})
    name = dig(method, "name", default="sepclr")
    words = METHODS.get(name, f"Encoders were trained with the method {safe(name)}")
    dims = [as_number(dig(method, key)) for key in ("common_dim", "salient_dim")]
    words += f" ({dims[0]:.0f} and {dims[1]:.0f} factors)." if None not in dims else "."
    weights = [dig(method, key) for key in ("w_salient", "w_null", "w_joint")]
    if not name.startswith("sepclr") or None in weights:
        return words
    words += " The salient, null-vector and joint-entropy terms weighed {}, {} and {}; temperature {}.".format(
        *map(safe, weights), safe(dig(method, "temperature", default="n/a"))
    )
    measure = dig(method, "independence", default="none")
    if measure != "none":
        weight = safe(dig(method, "w_independence", default="n/a"))
        words += (
            f" A further term of weight {weight} lowered the dependence of the heads among targets ({safe(measure)}"
        )
        words += " [[hsic]])." if measure == "hsic" else ")."
    return words


def name_chain(config: Mapping[str, Any]) -> str:
    """Return what replaced the preset, as a run says it; empty where nothing did.

    Examples
    --------
    >>> name_chain({"volumes": {"transforms": [{"name": "Orientationd"}, {"name": "Resized"}]}})
    'MONAI transforms Orientationd and Resized'
    """
    if code := dig(config, "volumes", "code"):
        return f"code of the authors ({dig(code, 'python') or 'not named'})"
    transforms = dig(config, "volumes", "transforms")
    names = [str(dig(entry, "name")) for entry in transforms] if isinstance(transforms, list) else []
    return f"MONAI transforms {say_list(names)}" if names else ""


def name_encoder(config: Mapping[str, Any]) -> str:
    """Return what the encoder of a run is called.

    Examples
    --------
    >>> name_encoder({"network": {"backbone": "small", "encoder": {"_target_": "DenseNet121"}}})
    'DenseNet121'
    """
    if code := dig(config, "network", "code"):
        return str(dig(code, "python") or "code of the authors")
    return str(dig(config, "network", "encoder", "_target_") or dig(config, "network", "backbone", default=""))


def _inputs(config: Mapping[str, Any], safe: Callable[[Any], str]) -> str:
    preset, spacing = dig(config, "volumes", "preset"), dig(config, "volumes", "spacing")
    if own := name_chain(config):
        return f"Images were preprocessed with {safe(own)} [[monai]]."
    if not preset:
        return ""
    size = f" at {safe(spacing)} mm" if spacing else ""
    return f"Images were preprocessed with the preset {safe(preset)}{size} [[monai]]."


def _reference(data: Mapping[str, Any], safe: Callable[[Any], str]) -> str:
    facts = dig(data["objects"].get("reference", {}), "facts", default={})
    if not facts:
        return ""
    covariates = say_list([safe(name) for name in dig(facts, "covariates", default=[])]) or "an intercept only"
    n, k = (as_number(dig(facts, key)) for key in ("n_background", "n_components"))
    chosen = (
        "" if dig(facts, "n_components_asked") is not None else ", their number chosen by the likelihood of held-out"
    )
    chosen += " background [[ppca]]" if chosen else ""
    taken_out = f"the {plural(k, 'leading component')} of what it leaves" if k else "no component of what it leaves"
    return (
        "The salient encoder saw how far an image lies from a normative reference [[normative]] fitted on "
        f"{plural(n, 'training background image')}: a voxelwise regression on {covariates} (numbers with their "
        f"square), {taken_out}{chosen}, and the voxelwise standard "
        "deviation of the rest. Training images were rendered by references fitted without them."
    ) + _borrowed(facts, safe)


def _borrowed(facts: Mapping[str, Any], safe: Callable[[Any], str]) -> str:
    said = ""
    if names := [safe(name) for name in dig(facts, "pooled", default=[])]:
        said += (
            f" The effect of {say_list(names)} was estimated in all training participants, with an intercept and "
            "effects of the other covariates of its own for each diagnosis."
        )
    shares = {safe(name): as_number(share) for name, share in dig(facts, "borrowed", default={}).items()}
    if helped := [f"{name} ({share:.0%} from targets)" for name, share in shares.items() if share]:
        said += (
            f" Estimates from background and targets were combined by random-effects weights for {say_list(helped)}"
            " [[dersimonian]]."
        )
    return said


def _erased(data: Mapping[str, Any], safe: Callable[[Any], str]) -> str:
    config = data["config"]
    columns = [safe(name) for name in dig(config, "method", "erase", default=[])]
    axes = as_number(dig(config, "method", "erase_salient", default=0)) or 0
    said = [f"of {say_list(columns)} from the salient space"] if columns else []
    if axes and dig(config, "method", "name", default="sepclr") in TWO_SPACES:
        said.append(f"of the {plural(axes, 'leading axis', 'leading axes')} of the salient space from the common one")
    erased = f"What a straight line could read {say_list(said)} was erased, fitted on training targets [[leace]]."
    fits = [step for step in data["steps"] if step.get("step") == "fit"]
    share = as_number(dig(fits[-1], "salient_variance")) or 1 if fits else 1
    kept = f"Of the salient space the leading principal axes with {share:.1%} of training targets' variance were kept."
    return " ".join([erased] * bool(said) + [kept] * (share < 1))


def _cross_fit(data: Mapping[str, Any]) -> str:
    plan = data["objects"].get("cross_fit", {})
    folds, seeds = (dig(plan, key, default=[]) for key in ("folds", "seeds"))
    if not folds or not seeds:
        return ""
    left = "site" if dig(plan, "by_site") else "fold"
    planned, used = len(folds) * len(seeds), len(texts(data["sidecars"].get("salient"), "Models"))
    done = f"{used} of {planned} planned times" if 0 < used < planned else plural(planned, "time")
    words = (
        f"This was done {done}, leaving out each of {plural(len(folds), left)} "
        f"with {plural(len(seeds), 'seed')}: every participant was embedded by models that had seen neither them nor "
        "their relatives nor another session of theirs, and the mean over seeds was taken [[crossfit]]. Spaces were "
        "laid over one another by orthogonal Procrustes rotation on participants that both models were trained on "
        "[[procrustes]]."
    )
    return words + (
        " Factors on which models did not agree (intraclass correlation [[icc]]) were not tested."
        if as_number(dig(data["objects"].get("link", {}), "settings", "smallest_icc"))
        else ""
    )


def _training(config: Mapping[str, Any], safe: Callable[[Any], str]) -> str:
    training = dig(config, "training", default={})
    if not dig(training, "epochs") or dig(config, "method", "name") in CLOSED_FORM:
        return ""
    return (
        f"Training took {plural(as_number(training['epochs']), 'epoch')} with AdamW [[adamw]] (learning rate "
        f"{safe(dig(training, 'learning_rate', default='n/a'))}, weight decay "
        f"{safe(dig(training, 'weight_decay', default='n/a'))}, batches of "
        f"{safe(dig(training, 'batch_size', default='n/a'))}, seed {safe(dig(training, 'seed', default='n/a'))}) "
        "in PyTorch [[pytorch]]. Embeddings are the representations before the projection heads."
    )
