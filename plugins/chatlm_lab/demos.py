"""Small examples of learning by gradient descent (book, chapter 1 and section 2.1).

Each has its data here, learns in well under a second, and returns what it found with its losses.
The gradients of the linear models are written out; those of the networks come from torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]

SEED = 0


@dataclass(frozen=True)
class DemoResult:
    """What a demo found."""

    lines: tuple[str, ...]
    """The data, the model and the result, for the terminal."""
    losses: tuple[float, ...]
    """Loss before each step, and at the end."""
    values: dict[str, Any] = field(default_factory=dict)
    """Numbers for JSON."""
    draw: Callable[[Axes], None] = lambda axes: None
    """Draws what was learnt beside the data."""


@dataclass(frozen=True)
class Demo:
    """An example that can be run."""

    title: str
    place: str
    """Where the book has it."""
    run: Callable[[], DemoResult]


AREAS = np.array([150.0, 200.0, 260.0])
PRICES = np.array([200.0, 600.0, 500.0])


def linear_regression() -> DemoResult:
    """Fit a line to the prices of three houses by their area, with the mean squared error.

    The gradient of (1/n) Σ (w x + b - y)² is (2/n) Σ (w x + b - y) x for w, and without the last
    factor for b. The areas are standardised first, since it takes millions of steps otherwise.
    """
    mean, deviation = AREAS.mean(), AREAS.std()
    x = (AREAS - mean) / deviation
    w = b = 0.0
    losses = []
    for _ in range(100):
        error = w * x + b - PRICES
        losses.append(float((error**2).mean()))
        w -= 0.1 * 2 * float((error * x).mean())
        b -= 0.1 * 2 * float(error.mean())
    slope, intercept = w / deviation, b - w * mean / deviation
    losses.append(float(((slope * AREAS + intercept - PRICES) ** 2).mean()))

    def draw(axes: Axes) -> None:
        ends = np.array([AREAS.min() - 20, AREAS.max() + 20])
        axes.scatter(AREAS, PRICES, color="#0072b2", zorder=3)
        axes.plot(ends, slope * ends + intercept, color="#d55e00")
        axes.set_xlabel("area, m²")
        axes.set_ylabel("price, thousands")

    rows = [f"{area:.0f} m² for {price:.0f}" for area, price in zip(AREAS, PRICES, strict=True)]
    return DemoResult(
        (
            f"Houses: {', '.join(rows)}.",
            "Model: price = w · area + b",
            f"w = {slope:.2f}, b = {intercept:.2f}; a house of 240 m²: "
            f"{slope * 240 + intercept:.0f}",
        ),
        tuple(losses),
        {"w": slope, "b": intercept},
        draw,
    )


CUSTOMERS = np.array(
    [
        *([22, 25], [25, 35], [47, 80], [52, 95], [46, 82], [56, 90]),
        *([23, 27], [30, 50], [40, 60], [39, 57], [53, 95], [48, 88]),
    ],
    np.float64,
)
"""Age in years, and income in thousands."""

BUYS = np.array([0, 0, 1, 1, 1, 1, 0, 1, 1, 0, 1, 1], np.float64)


def logistic_regression() -> DemoResult:
    """Divide twelve customers into those who buy and those who do not.

    p = σ(w · x + b). The gradient of the cross-entropy -(1/n) Σ y ln p + (1 - y) ln(1 - p) is
    (1/n) Σ (p - y) x: the error, as in linear regression.
    """
    mean, deviation = CUSTOMERS.mean(0), CUSTOMERS.std(0)
    x = (CUSTOMERS - mean) / deviation
    w, b = np.zeros(2), 0.0
    losses = []
    for _ in range(5000):
        p = _sigmoid(x @ w + b)
        losses.append(_cross_entropy(p, BUYS))
        w -= x.T @ (p - BUYS) / len(x)
        b -= float((p - BUYS).mean())
    p = _sigmoid(x @ w + b)
    losses.append(_cross_entropy(p, BUYS))
    right = int(((p > 0.5) == (BUYS == 1)).sum())
    slopes = w / deviation
    intercept = b - float(slopes @ mean)

    def draw(axes: Axes) -> None:
        _scatter(axes, CUSTOMERS, BUYS)
        ages = np.array([20.0, 58.0])
        axes.plot(ages, -(slopes[0] * ages + intercept) / slopes[1], color="black")
        axes.set_xlabel("age")
        axes.set_ylabel("income, thousands")

    return DemoResult(
        (
            f"Customers: {len(x)}, with age and income; {int(BUYS.sum())} of them buy.",
            "Model: p = σ(w₁ · age + w₂ · income + b)",
            f"w = {slopes[0]:.2f} and {slopes[1]:.2f}, b = {intercept:.2f}; "
            f"{right} of {len(x)} customers are on the right side",
        ),
        tuple(losses),
        {"w": slopes.tolist(), "b": intercept, "right": right, "customers": len(x)},
        draw,
    )


CORNERS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float64)
EXCLUSIVE_OR = np.array([0, 1, 1, 0], np.float64)


def multilayer_perceptron() -> DemoResult:
    """Learn "one or the other, not both", which no straight line can divide.

    p = σ(w · tanh(W x + b) + c), with four hidden units.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    x, y = torch.tensor(CORNERS).float(), torch.tensor(EXCLUSIVE_OR).float()
    losses = _descend(network, lambda: _binary_loss(network(x)[:, 0], y), 400, 0.05)
    with torch.no_grad():
        found = torch.sigmoid(network(x)[:, 0]).tolist()

    def draw(axes: Axes) -> None:
        steps = np.linspace(-0.5, 1.5, 100)
        grid = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
        with torch.no_grad():
            p = torch.sigmoid(network(torch.tensor(grid).float())[:, 0]).numpy()
        shown = p.reshape(100, 100)
        axes.contourf(steps, steps, shown, levels=10, cmap="coolwarm", alpha=0.6)
        _scatter(axes, CORNERS, EXCLUSIVE_OR)

    shown = [
        f"{int(a)} and {int(b)}: {p:.2f}" for (a, b), p in zip(CORNERS.tolist(), found, strict=True)
    ]
    return DemoResult(
        (
            "Data: one of two inputs is 1, not both (exclusive or).",
            "Model: p = σ(w · tanh(W x + b) + c) with 4 hidden units, 17 parameters",
            f"p for {', '.join(shown)}",
        ),
        losses,
        {"probabilities": found},
        draw,
    )


IMAGE_SIDE = 8


def make_line_images(count: int, seed: int) -> tuple[Floats, Floats]:
    """Return images with a noisy line each, and whether it is vertical.

    Args:
        count: number of images.
        seed: of places, lengths and noise.

    Returns:
        (images, 8, 8) and (images,).
    """
    chance = np.random.default_rng(seed)
    images = chance.normal(0, 0.2, (count, IMAGE_SIDE, IMAGE_SIDE))
    vertical = chance.integers(0, 2, count)
    for image, is_vertical in zip(images, vertical, strict=True):
        length = chance.integers(4, IMAGE_SIDE + 1)
        start, place = chance.integers(IMAGE_SIDE - length + 1), chance.integers(IMAGE_SIDE)
        line = image.T if is_vertical else image
        line[place, start : start + length] += 1
    return images, vertical.astype(np.float64)


def convolutional_network() -> DemoResult:
    """Tell vertical from horizontal lines, wherever they are.

    Four filters of 3 × 3 pixels slide over the image; of each the largest value counts:
    p = σ(w · max over places of ReLU(F * image + b) + c).
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        convolution = torch.nn.Conv2d(1, 4, 3)
        network = torch.nn.Sequential(
            convolution,
            torch.nn.ReLU(),
            torch.nn.AdaptiveMaxPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Linear(4, 1),
        )
    (images, vertical), (others, truth) = make_line_images(200, 1), make_line_images(200, 2)
    x, y = torch.tensor(images).float()[:, None], torch.tensor(vertical).float()
    losses = _descend(network, lambda: _binary_loss(network(x)[:, 0], y), 150, 0.03)
    with torch.no_grad():
        found = network(torch.tensor(others).float()[:, None])[:, 0].numpy() > 0
        filters: Floats = convolution.weight[:, 0].numpy().astype(np.float64)
    right = int((found == (truth == 1)).sum())

    def draw(axes: Axes) -> None:
        gap = np.full((3, 1), np.nan)
        parts = [part for each in filters for part in (each, gap)][:-1]
        axes.imshow(np.concatenate(parts, 1), cmap="coolwarm")
        axes.set_title("the four filters")
        axes.set_axis_off()

    return DemoResult(
        (
            "Data: 200 images of 8 × 8 pixels with noise and a line, vertical or horizontal.",
            "Model: 4 filters of 3 × 3, ReLU, the largest value of each, one output; 45 parameters",
            f"{right} of {len(truth)} other images are classified correctly",
        ),
        losses,
        {"right": right, "images": len(truth), "filters": filters.tolist()},
        draw,
    )


DOCUMENTS = (
    ("Movies are fun for everyone.", "cinema"),
    ("Watching movies is great fun.", "cinema"),
    ("Enjoy a great movie today.", "cinema"),
    ("Research is interesting and important.", "science"),
    ("Learning math is very important.", "science"),
    ("Science discovery is interesting.", "science"),
    ("Rock is great to listen to.", "music"),
    ("Listen to music for fun.", "music"),
    ("Music is fun for everyone.", "music"),
    ("Listen to folk music!", "music"),
)

NEW_DOCUMENTS = ("Listening to rock music is fun.", "I love science very much.")

TOPICS = ("cinema", "music", "science")


def find_words(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return re.findall(r"\w+", text.lower())


def bag_of_words(texts: Sequence[str], vocabulary: Sequence[str]) -> Floats:
    """Return which words of a vocabulary each text has, as 1 and 0: (texts, words)."""
    return np.array([[float(word in find_words(text)) for word in vocabulary] for text in texts])


def document_classifier() -> DemoResult:
    """Find the topics of texts from which words they have, with softmax regression.

    P = softmax(X W + b). The gradient of the cross-entropy is Xᵀ (P - Y) / n for W.
    """
    texts = [text for text, _ in DOCUMENTS]
    vocabulary = sorted({word for text in texts for word in find_words(text)})
    x = bag_of_words(texts, vocabulary)
    y = np.array([[float(topic == label) for topic in TOPICS] for _, label in DOCUMENTS])
    w, b = np.zeros((len(vocabulary), len(TOPICS))), np.zeros(len(TOPICS))
    losses = []
    for _ in range(200):
        p = _softmax(x @ w + b)
        losses.append(float(-(y * np.log(p)).sum(1).mean()))
        w -= x.T @ (p - y) / len(x)
        b -= (p - y).mean(0)
    p = _softmax(x @ w + b)
    losses.append(float(-(y * np.log(p)).sum(1).mean()))
    new = _softmax(bag_of_words(NEW_DOCUMENTS, vocabulary) @ w + b)

    def draw(axes: Axes) -> None:
        strongest = np.argsort(-np.abs(w).max(1))[:12]
        axes.imshow(w[strongest], cmap="coolwarm", aspect="auto")
        axes.set_xticks(range(len(TOPICS)), TOPICS)
        axes.set_yticks(range(len(strongest)), [vocabulary[place] for place in strongest])
        axes.set_title("weights of words")

    return DemoResult(
        (
            f"Data: {len(texts)} texts of 3 topics, with {len(vocabulary)} different words.",
            f"{texts[0]!r} has the words {', '.join(sorted(find_words(texts[0])))}: a vector of "
            f"{len(vocabulary)} numbers, {int(x[0].sum())} of them 1.",
            "Model: P = softmax(X W + b)",
            f"{int((p.argmax(1) == y.argmax(1)).sum())} of {len(texts)} texts are classified "
            "correctly",
            *(
                f"{text!r}: "
                + ", ".join(
                    f"{topic} {share:.0%}" for topic, share in zip(TOPICS, row, strict=True)
                )
                for text, row in zip(NEW_DOCUMENTS, new.tolist(), strict=True)
            ),
            "For texts of your own: chatlm emotion train NAME --method baseline --data FILE",
        ),
        tuple(losses),
        {
            "vocabulary": vocabulary,
            "new": {
                text: dict(zip(TOPICS, row, strict=True))
                for text, row in zip(NEW_DOCUMENTS, new.tolist(), strict=True)
            },
        },
        draw,
    )


def _sigmoid(z: Floats) -> Floats:
    return 1 / (1 + np.exp(-z))


def _softmax(z: Floats) -> Floats:
    powers = np.exp(z - z.max(1, keepdims=True))
    found: Floats = powers / powers.sum(1, keepdims=True)
    return found


def _cross_entropy(p: Floats, y: Floats) -> float:
    return float(-(y * np.log(p) + (1 - y) * np.log(1 - p)).mean())


def _binary_loss(logits: Any, y: Any) -> Any:
    from torch.nn.functional import binary_cross_entropy_with_logits

    return binary_cross_entropy_with_logits(logits, y)


def _descend(network: Any, loss: Callable[[], Any], steps: int, rate: float) -> tuple[float, ...]:
    """Make steps of Adam, and return the losses before each and at the end."""
    import torch

    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    losses = []
    for _ in range(steps):
        value = loss()
        losses.append(value.item())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    with torch.no_grad():
        losses.append(loss().item())
    return tuple(losses)


def _scatter(axes: Axes, points: Floats, labels: Floats) -> None:
    for label, colour in ((0, "#0072b2"), (1, "#d55e00")):
        chosen = points[labels == label]
        axes.scatter(chosen[:, 0], chosen[:, 1], color=colour, edgecolor="white", zorder=3)


DEMOS = {
    "linear-regression": Demo(
        "a line through the prices of houses", "chapter 1", linear_regression
    ),
    "logistic-regression": Demo("customers who buy, and others", "chapter 1", logistic_regression),
    "mlp": Demo("a multilayer perceptron learns exclusive or", "chapter 1", multilayer_perceptron),
    "cnn": Demo("a convolutional network tells lines apart", "chapter 1", convolutional_network),
    "bag-of-words": Demo("topics of texts from their words", "section 2.1", document_classifier),
}
"""By name, in the order of the book."""
