"""A model of handwritten digits, trained when the service starts: the slow start that many such services have."""

import threading

from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC


class Digits:
    """Trains in a thread of its own, so that the service can say meanwhile that it is not ready."""

    def __init__(self):
        self.ready = threading.Event()
        self.failure = None
        self.accuracy = 0.0
        threading.Thread(target=self._train, name="train", daemon=True).start()

    def _train(self):
        try:
            images, labels = load_digits(return_X_y=True)
            images, self._unseen, labels, self._labels = train_test_split(images, labels, test_size=0.25, random_state=7)
            self._forest = RandomForestClassifier(n_estimators=100, random_state=7)
            self._vectors = make_pipeline(StandardScaler(), SVC(random_state=7))
            # A model that got worse must not serve: measured on five splits before it is trained on all of them.
            self.accuracy = float(cross_val_score(self._forest, images, labels, cv=5).mean())
            if self.accuracy < 0.9:
                raise ValueError(f"the model is right only {self.accuracy:.0%} of the time")
            self._forest.fit(images, labels)
            self._vectors.fit(images, labels)
            self.ready.set()
        except Exception as error:  # the health check tells it: a thread's exception alone would leave the service waiting for ever
            self.failure = repr(error)
            raise

    def predict(self, count):
        """The first `count` images that the model has not seen, by both models; returns the share on which they agree with the truth."""
        images, labels = self._unseen[:count], self._labels[:count]
        right = (self._forest.predict(images) == labels).mean()
        return {"forest": float(right), "vectors": float((self._vectors.predict(images) == labels).mean())}
