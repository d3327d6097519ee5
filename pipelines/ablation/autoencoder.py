"""Principal components of controls, or a small autoencoder of them, as what is taken away. No training of encoders.

    python pipelines/ablation/autoencoder.py OUTPUT_DIR [--sizes 30,120,...] [--spacing 12] [--epochs 50,200,800]

Images and people of ``reference.py``. Both start from the same deviations from age, sex and site. The autoencoder is a
perceptron with three hidden layers (tanh) on all principal scores of the training controls, which is an autoencoder of
voxels that never leaves their span; its width, its weight decay and their number of epochs are chosen by the
reconstruction of held-out controls. One row per size and model in ``OUTPUT_DIR/autoencoder.tsv``:

``explained_unseen``
    share of the squared length of unseen controls' deviations that is taken away;
``auc_norm, severity, ...``
    of what is left, as in ``reference.py``.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
from reference import auc_of_lengths, choose_people, fit_reference, parser, read_truth, render, simulate_people
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPRegressor

from sepclr_med.rundir import write_table
from sepclr_med.volumes.normative import render_with

GRID = {
    "hidden_layer_sizes": [(64, 8, 64), (64, 24, 64), (128, 48, 128)],
    "alpha": [1e-3, 1e-1, 1.0, 10.0],
}


def main() -> None:
    options = _options()
    people, cached = simulate_people(options)
    table = pd.DataFrame([row for n in options.sizes for row in compare(n, people, cached, options)])
    write_table(options.output / "autoencoder.tsv", table)
    print(table.round(2).to_string(index=False))


def compare(n: int, people: pd.DataFrame, cached, options: argparse.Namespace) -> list[dict]:
    fitted, new, patients = choose_people(people, n, options.new)
    plain = render_with(fit_reference(fitted, people, cached, n_components=0), people)
    parts = [render(plain, cached, rows) for rows in (fitted, new, patients)]
    takers = {"nothing": np.zeros_like, "autoencoder": fit_autoencoder(parts[0], options.epochs)}
    left = {name: [part - taker(part) for part in parts[1:]] for name, taker in takers.items()}
    components = render_with(fit_reference(fitted, people, cached), people)
    left["principal components"] = [render(components, cached, rows) for rows in (new, patients)]
    ill = people.iloc[patients].reset_index(drop=True)
    found = []
    for name, (unseen, deviations) in left.items():
        # Deviations from components come in units of what the components leave: lengths are taken back to one scale.
        scale = (
            plain.reference.inverse_std / components.reference.inverse_std if name == "principal components" else 1.0
        )
        explained = 1 - np.square(np.nan_to_num(unseen * np.asarray(scale))).sum() / np.square(parts[1]).sum()
        scores = {"explained_unseen": explained, "auc_norm": auc_of_lengths(unseen, deviations)}
        found.append({"n": n, "model": name, **scores, **read_truth(deviations, ill)})
    return found


def fit_autoencoder(deviations: np.ndarray, epochs: list[int]):
    """Return a function from deviations to what an autoencoder of these controls says of them."""
    span = PCA(min(len(deviations) - 1, 400), random_state=0).fit(deviations)
    scores = span.transform(deviations)
    unit = scores[:, 0].std()
    network = MLPRegressor(activation="tanh", random_state=0)
    search = GridSearchCV(network, {**GRID, "max_iter": epochs}, cv=5, scoring="neg_mean_squared_error", n_jobs=-1)
    search.fit(scores / unit, scores / unit)
    print(len(deviations), search.best_params_, flush=True)
    return lambda rows: span.inverse_transform(search.predict(span.transform(rows) / unit) * unit)


def _options() -> argparse.Namespace:
    options = parser()
    options.add_argument("--epochs", type=lambda text: [int(n) for n in text.split(",")], default=[50, 200, 800])
    return options.parse_args()


if __name__ == "__main__":
    main()
