"""Distance of a text's features to the nearest class mean, fitted on training texts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.student.decoding import FloatArray

SHRINKAGE = 1e-3

Values = NDArray[np.float64]


@dataclass(frozen=True)
class ClassMeans:
    """The means of the classes in the directions in which a class varies least, in units of that variation.

    Squared Mahalanobis distance with one covariance for all classes, of which only the directions of least variance
    are kept: they tell foreign text best (Kamoi and Kobayashi 2020, "Why is the Mahalanobis Distance Effective for
    Anomaly Detection?"). `centre` [features] lies at the origin, `projection` is [features, directions], `means`
    [classes, directions].
    """

    centre: Values
    projection: Values
    means: Values

    @classmethod
    def fit(cls, features: FloatArray, classes: NDArray[np.int64], directions: int) -> ClassMeans:
        """From features [texts, features] and their classes [texts], with a little shrinkage of the covariance."""
        values = features.astype(np.float64)
        centre = values.mean(axis=0)
        values -= centre
        present, numbers = np.unique(classes, return_inverse=True)
        means = np.stack([values[numbers == number].mean(axis=0) for number in range(len(present))])
        within = values - means[numbers]
        covariance = within.T @ within / len(within)
        covariance += SHRINKAGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        variances, axes = np.linalg.eigh(covariance)
        projection = axes[:, :directions] / np.sqrt(variances[:directions])
        return cls(centre, projection, means @ projection)

    def distances(self, features: FloatArray) -> Values:
        """The squared distance of each text's features [texts, features] to the nearest mean, [texts]."""
        at = (features - self.centre) @ self.projection
        to_means = (self.means**2).sum(axis=1) - 2 * at @ self.means.T
        nearest: Values = (at**2).sum(axis=1) + to_means.min(axis=1)
        return nearest
