"""Metrics that score many altered pictures, over the forward passes that they need. Keras on TensorFlow."""

from probing import images, mobilenet, ratio
from processes import Row, tell

import camlucida as cl

STEPS, BATCH = 224, 32


def insertion_and_deletion() -> Row:
    """Both, of one map, over plain passes of as many pictures in batches of the same size."""
    model, one = mobilenet(), images(1)
    item = cl.explain(model, one, preprocess=None, target=0, batch_size=BATCH)[0]
    batch = images(BATCH)
    contenders = {
        "metrics": lambda: item.grade(["insertion", "deletion"]),
        "passes": lambda: [model.predict_on_batch(batch) for _ in range(2 * STEPS // BATCH)],
    }
    name = f"MobileNet 0.75: Insertion and Deletion with {STEPS} steps, over {2 * STEPS} forward passes"
    return (name, "1.15", ratio(contenders, 7))


if __name__ == "__main__":
    tell([insertion_and_deletion()])
