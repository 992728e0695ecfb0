"""Makes tokenizer.json (lower case, words for English, single characters for Chinese) and words.json, which knows whole words in both."""
from __future__ import annotations

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from .captions import known_words

PAD, UNK, BOS = 0, 1, 2
MAX_LENGTH = 48
TRADITIONAL = dict(zip(  # characters of the vocabulary as they are written in Taiwan and Hong Kong
    "與叢個麗從們兒動隻臺後園處頭開彈懸攝搖無時機條樹遊滾灘愛貓環畫盤著紙經繞綠藍視賞躍車輛邊過進遠跡蹟遺裡裏鏡陽靜頻風飄飛駛魚鳥黃紅牠",
    "与丛个丽从们儿动只台后园处头开弹悬摄摇无时机条树游滚滩爱猫环画盘着纸经绕绿蓝视赏跃车辆边过进远迹迹遗里里镜阳静频风飘飞驶鱼鸟黄红它", strict=True))


def simplified() -> list:
    """Normalizers that write the vocabulary's characters as it does."""
    return [normalizers.Replace(old, new) for old, new in TRADITIONAL.items()]


def vocabulary(normalizer, splitter) -> list[str]:
    """The known words, normalised and split."""
    return sorted({w for w, _ in splitter.pre_tokenize_str(normalizer.normalize_str(" ".join(known_words())))})


def make_tokenizer() -> Tokenizer:
    specials = ["[PAD]", "[UNK]", "[BOS]"]
    bert = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=True)
    normalizer = normalizers.Sequence([bert, *simplified()])
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
    normalizer, splitter = normalizers.Sequence([normalizers.Lowercase(), *simplified()]), pre_tokenizers.BertPreTokenizer()
    words = vocabulary(normalizer, splitter)
    tokenizer = Tokenizer(models.Unigram([("[UNK]", 0.), *((w, -1.) for w in words)], unk_id=0))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    return tokenizer


def pad_batch(tokenizer: Tokenizer, texts: list[str]) -> tuple[list[list[int]], list[list[int]]]:
    """Ids and attention mask, padded to the longest."""
    rows = [tokenizer.encode(t).ids[:MAX_LENGTH] for t in texts]
    n = max(map(len, rows))
    return [r + [PAD] * (n - len(r)) for r in rows], [[1] * len(r) + [0] * (n - len(r)) for r in rows]
