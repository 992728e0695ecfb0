"""Makes tokenizer.json (lower case, words for English, single characters for Chinese) and words.json, which knows whole words in both."""
from __future__ import annotations

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from .captions import known_words

PAD, UNK, BOS = 0, 1, 2
MAX_LENGTH = 48


def vocabulary(normalizer, splitter) -> list[str]:
    """The known words, normalised and split."""
    return sorted({w for w, _ in splitter.pre_tokenize_str(normalizer.normalize_str(" ".join(known_words())))})


def make_tokenizer() -> Tokenizer:
    specials = ["[PAD]", "[UNK]", "[BOS]"]
    normalizer = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    words = vocabulary(normalizer, splitter)
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(specials + words)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.add_special_tokens(specials)
    tokenizer.post_processor = processors.TemplateProcessing(single="[BOS] $A", special_tokens=[("[BOS]", BOS)])
    return tokenizer


def words_of(tokenizer: Tokenizer) -> list[str]:
    """Its vocabulary, in the order of the ids."""
    vocabulary = tokenizer.get_vocab()
    return sorted(vocabulary, key=vocabulary.get)


def make_words() -> Tokenizer:
    """Splits a text into as few known words as it can, so that `月球` is not taken for known where its characters are, from `月光` and `皮球`."""
    normalizer, splitter = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    words = vocabulary(normalizer, splitter)
    tokenizer = Tokenizer(models.Unigram([("[UNK]", 0.), *((w, -1.) for w in words)], unk_id=0))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    return tokenizer


def pad_batch(tokenizer: Tokenizer, texts: list[str]) -> tuple[list[list[int]], list[list[int]]]:
    """Ids and attention mask, padded to the longest."""
    rows = [tokenizer.encode(t).ids[:MAX_LENGTH] for t in texts]
    n = max(map(len, rows))
    return [r + [PAD] * (n - len(r)) for r in rows], [[1] * len(r) + [0] * (n - len(r)) for r in rows]
