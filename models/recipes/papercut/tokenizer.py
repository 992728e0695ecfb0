"""Makes tokenizer.json: lower case, words for English, single characters for Chinese."""
from __future__ import annotations

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from .captions import vocabulary_text

PAD, UNK, BOS = 0, 1, 2
MAX_LENGTH = 48


def make_tokenizer() -> Tokenizer:
    specials = ["[PAD]", "[UNK]", "[BOS]"]
    normalizer = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    words = sorted({w for w, _ in splitter.pre_tokenize_str(normalizer.normalize_str(vocabulary_text()))})
    vocabulary = {w: i for i, w in enumerate(specials + words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.add_special_tokens(specials)
    tokenizer.post_processor = processors.TemplateProcessing(single="[BOS] $A", special_tokens=[("[BOS]", BOS)])
    return tokenizer


def pad_batch(tokenizer: Tokenizer, texts: list[str]) -> tuple[list[list[int]], list[list[int]]]:
    """Ids and attention mask, padded to the longest."""
    rows = [tokenizer.encode(t).ids[:MAX_LENGTH] for t in texts]
    n = max(map(len, rows))
    return [r + [PAD] * (n - len(r)) for r in rows], [[1] * len(r) + [0] * (n - len(r)) for r in rows]
