"""Tokenizers with the parts of the real ones and some hundred tokens, trained on sentences made of a few words."""

import io
import itertools
import string
import tempfile
import unicodedata
from functools import cache

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPTokenizer, PreTrainedTokenizerFast, T5Tokenizer

SUBJECTS = ["a red fox", "a cat and a dog", "two birds", "an old robot", "the paper boat"]
ACTIONS = ["runs through fresh snow", "bakes a cake in the kitchen", "drinks coffee at 5 pm", "looks at fireflies"]
STYLES = ["sunlight", "slow motion, best quality", "blurry, worst quality", "a video with a café"]
SUBJECTS_ZH = ["一只猫和一只狗", "红色的狐狸", "两只鸟", "纸船"]
ACTIONS_ZH = ["在厨房里烤蛋糕", "跑过新雪", "喝咖啡", "看萤火虫"]
STYLES_ZH = ["阳光", "慢动作，高质量", "模糊，低质量", "夜晚！"]


def sentences() -> list[str]:
    """Returns what the tokenizers are trained on."""
    english = [f"{s} {a}, {b}." for s, a, b in itertools.product(SUBJECTS, ACTIONS, STYLES)]
    chinese = [f"{s}{a}，{b}" for s, a, b in itertools.product(SUBJECTS_ZH, ACTIONS_ZH, STYLES_ZH)]
    return english + chinese


def normalization_rules() -> str:
    """Returns the part of NFKC that prompts meet, in SentencePiece's words: the whole takes 100 KB, compressed.

    White space becomes a space; ligatures, full-width letters and signs and accents written apart become plain.
    """
    rules = {ord(c): " " for c in "\t\n\r\u00a0\u2002\u2003\u2009\u3000"}
    rules |= {c: unicodedata.normalize("NFKC", chr(c)) for c in (*range(0xFB00, 0xFB07), *range(0xFF01, 0xFF5F))}
    lines = [f"{c:X}\t{' '.join(f'{ord(t):X}' for t in to)}" for c, to in rules.items()]
    lines += [f"{ord(letter):X} 301\t{ord(unicodedata.normalize('NFKC', letter + chr(0x301))):X}" for letter in "aeiou"]
    return "\n".join(lines) + "\n"


@cache
def unigram() -> tuple[list[tuple[str, float]], bytes]:
    """Returns pieces with scores, and the compiled table of SentencePiece's character normalization."""
    model = io.BytesIO()
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as rules:
        rules.write(normalization_rules())
        rules.flush()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences()), model_writer=model, vocab_size=300, hard_vocab_limit=False,
            model_type="unigram", character_coverage=1.0, required_chars=string.ascii_letters + string.digits + "&;<>'\"",
            normalization_rule_tsv=rules.name, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, pad_piece="<pad>",
            eos_piece="</s>", unk_piece="<unk>", num_threads=1, minloglevel=2)
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model.getvalue())
    return [(p.piece, p.score) for p in proto.pieces], proto.normalizer_spec.precompiled_charsmap


def t5(model_max_length: int = 512) -> T5Tokenizer:
    """Returns a tokenizer like T5's: unigrams of SentencePiece, with character normalization."""
    vocab, charsmap = unigram()
    return T5Tokenizer(vocab=vocab, _spm_precompiled_charsmap=charsmap, extra_ids=0, additional_special_tokens=[],
                       model_max_length=model_max_length)


def bpe(end_of_word: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Returns the vocabulary and merges of a byte-level BPE that knows the training sentences' words.

    A word is merged from its left to its right. (The tokenizers library's trainer breaks ties at random.)
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    splitter = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"\p{Han}|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), behavior="removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    words = dict.fromkeys(word for sentence in sentences() for word, _ in splitter.pre_tokenize_str(sentence))
    vocab = dict.fromkeys([*alphabet, *(byte + end_of_word for byte in alphabet)])
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        pieces = [*word[:-1], word[-1] + end_of_word]
        left = pieces[0]
        for right in pieces[1:]:
            merges[left, right] = None
            left += right
            vocab[left] = None
    return {piece: index for index, piece in enumerate(vocab)}, list(merges)


def clip(pad_token: str = "<|endoftext|>") -> CLIPTokenizer:
    """Returns a tokenizer like CLIP's, with the special tokens last; `pad_token` is `!` for OpenCLIP's encoders."""
    vocab, merges = bpe("</w>")
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocab[special] = len(vocab)
    return CLIPTokenizer(vocab=vocab, merges=merges, pad_token=pad_token, model_max_length=77)


def llama() -> PreTrainedTokenizerFast:
    """Returns a tokenizer like LLaMA 3's: BPE of bytes in which a space belongs to the word after it, and marks of a chat."""
    vocab, merges = bpe("")
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    marks = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|pad|>"]
    tokenizer.add_special_tokens(marks)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[(marks[0], tokenizer.token_to_id(marks[0]))])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=marks[0], eos_token=marks[3], pad_token=marks[4],
                                   model_max_length=1024)
