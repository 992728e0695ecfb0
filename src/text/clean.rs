//! Clean-ups of a prompt before it is tokenized, each character knowing which bytes of the prompt it stands for.

use std::ops::Range;

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::decompose_canonical;

use crate::package::Clean;

/// A prompt, cleaned, that knows where each of its characters stood before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cleaned {
    text: String,
    /// For each character: where it begins in `text`, and the bytes of the prompt it stands for.
    origins: Vec<(usize, Range<usize>)>,
}

impl Cleaned {
    /// Returns the cleaned text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the bytes of the prompt that the bytes `range` of the text stand for; none, at the end of them, for what lies beyond the text.
    pub fn origin(&self, range: Range<usize>) -> Range<usize> {
        if range.start >= self.text.len() {
            let end = self.origins.last().map_or(0, |(_, origin)| origin.end);
            return end..end;
        }
        let holding = |byte: usize| {
            let after = self.origins.partition_point(|(start, _)| *start <= byte);
            self.origins.get(after.wrapping_sub(1)).map(|(_, origin)| origin.clone())
        };
        match (holding(range.start), holding(range.end.saturating_sub(1))) {
            (Some(first), Some(last)) if range.start < range.end => first.start..last.end,
            (Some(first), _) => first.start..first.start,
            _ => 0..0,
        }
    }
}

/// A character with the bytes of the prompt that it stands for.
type Char = (char, Range<usize>);

/// Returns `prompt` after the clean-ups `rules`, in their order.
///
/// ```
/// use latentflow::{package::Clean, text::clean};
/// let cleaned = clean("  A  Cat\n", &[Clean::CollapseWhitespace, Clean::Strip, Clean::Lowercase]);
/// assert_eq!(cleaned.text(), "a cat");
/// assert_eq!(cleaned.origin(2..5), 5..8);
/// ```
pub fn clean(prompt: &str, rules: &[Clean]) -> Cleaned {
    let mut chars: Vec<Char> =
        prompt.char_indices().map(|(start, c)| (c, start..start + c.len_utf8())).collect();
    for rule in rules {
        chars = match rule {
            Clean::CollapseWhitespace => collapse_whitespace(chars),
            Clean::Strip => strip(chars),
            Clean::Lowercase => lowercase(&chars),
            Clean::HtmlUnescape => html_unescape(&html_unescape(&chars)),
            Clean::FixText => fix_text(chars),
        };
    }
    let mut text = String::with_capacity(prompt.len());
    let mut origins = Vec::with_capacity(chars.len());
    for (c, origin) in chars {
        origins.push((text.len(), origin));
        text.push(c);
    }
    Cleaned { text, origins }
}

fn string_of(chars: &[Char]) -> String {
    chars.iter().map(|(c, _)| c).collect()
}

/// The bytes that `chars` stand for together.
fn origin_of(chars: &[Char]) -> Range<usize> {
    match (chars.first(), chars.last()) {
        (Some((_, first)), Some((_, last))) => first.start..last.end,
        _ => 0..0,
    }
}

fn collapse_whitespace(chars: Vec<Char>) -> Vec<Char> {
    let mut collapsed: Vec<Char> = Vec::with_capacity(chars.len());
    let mut in_space = false;
    for (c, origin) in chars {
        match collapsed.last_mut() {
            Some((_, run)) if in_space && c.is_whitespace() => run.end = origin.end,
            _ => {
                in_space = c.is_whitespace();
                collapsed.push((if in_space { ' ' } else { c }, origin));
            }
        }
    }
    collapsed
}

fn strip(mut chars: Vec<Char>) -> Vec<Char> {
    let end = chars.iter().rposition(|(c, _)| !c.is_whitespace()).map_or(0, |last| last + 1);
    chars.truncate(end);
    let start = chars.iter().position(|(c, _)| !c.is_whitespace()).unwrap_or(0);
    chars.split_off(start)
}

/// As [`str::to_lowercase`] of the whole: a sigma looks at its neighbours, other letters stand alone.
fn lowercase(chars: &[Char]) -> Vec<Char> {
    let origins = chars.iter().flat_map(|(c, origin)| c.to_lowercase().map(|_| origin.clone()));
    string_of(chars).to_lowercase().chars().zip(origins).collect()
}

/// Characters in place of their HTML references, once. No reference goes past the next `&`.
fn html_unescape(chars: &[Char]) -> Vec<Char> {
    let mut out = Vec::with_capacity(chars.len());
    for part in chars.chunk_by(|_, (next, _)| *next != '&') {
        let text = string_of(part);
        let unescaped = htmlize::unescape(text.as_str());
        if part[0].0 != '&' || *unescaped == text {
            out.extend_from_slice(part);
            continue;
        }
        // What follows the reference is as it was; the reference is what is left.
        let new: Vec<char> = unescaped.chars().collect();
        let same = new.iter().rev().zip(part.iter().rev()).take_while(|(a, (b, _))| *a == b).count();
        let (reference, rest) = part.split_at(part.len() - same);
        out.extend(new[..new.len() - same].iter().map(|c| (*c, origin_of(reference))));
        out.extend_from_slice(rest);
    }
    out
}

/// What `ftfy.fix_text` (R. Speer, ftfy 6) does to text that was decoded rightly: ligatures apart, full-width and half-width forms
/// in their usual width, straight quotation marks, line breaks as `\n`, no control characters, NFC. Its repair of text decoded by
/// the wrong table is left out, and so are HTML references, which have a rule of their own.
fn fix_text(chars: Vec<Char>) -> Vec<Char> {
    let mut fixed: Vec<Char> = Vec::with_capacity(chars.len());
    let mut chars = chars.into_iter().peekable();
    while let Some((c, mut origin)) = chars.next() {
        match c {
            '\u{0}'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}' => (),
            '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffc}' => (),
            '\u{132}'
            | '\u{133}'
            | '\u{1c4}'..='\u{1cc}'
            | '\u{1f1}'..='\u{1f3}'
            | '\u{fb00}'..='\u{fb04}'
            | '\u{fb06}' => {
                fixed.extend(compatible(c).map(|c| (c, origin.clone())));
            }
            '\u{149}' => fixed.extend(['\u{2bc}', 'n'].map(|c| (c, origin.clone()))),
            '\u{fb05}' => fixed.extend(['\u{17f}', 't'].map(|c| (c, origin.clone()))),
            '\u{3000}' => fixed.push((' ', origin)),
            '\u{ff01}'..='\u{ffef}' => fixed.extend(compatible(c).map(|c| (c, origin.clone()))),
            '\u{2bc}' | '\u{2018}'..='\u{201b}' => fixed.push(('\'', origin)),
            '\u{201c}'..='\u{201f}' => fixed.push(('"', origin)),
            '\r' => {
                if let Some((_, newline)) = chars.next_if(|(next, _)| *next == '\n') {
                    origin.end = newline.end;
                }
                fixed.push(('\n', origin));
            }
            '\u{2028}' | '\u{2029}' | '\u{85}' => fixed.push(('\n', origin)),
            _ => fixed.push((c, origin)),
        }
    }
    // A full-width apostrophe becomes one to straighten only now.
    for (c, _) in &mut fixed {
        *c = if *c == '\u{2bc}' { '\'' } else { *c };
    }
    compose(&fixed)
}

/// The characters that compatibility normalisation makes of one.
fn compatible(c: char) -> impl Iterator<Item = char> {
    std::iter::once(c).nfkc().collect::<Vec<_>>().into_iter()
}

/// Normalisation form C. Decomposed, both texts are as long: that is how each character finds what it stands for.
fn compose(chars: &[Char]) -> Vec<Char> {
    let parts = |c: char| {
        let mut count = 0;
        decompose_canonical(c, |_| count += 1);
        count
    };
    let origins: Vec<&Range<usize>> =
        chars.iter().flat_map(|(c, origin)| std::iter::repeat_n(origin, parts(*c))).collect();
    let mut at = 0;
    let composed = chars.iter().map(|(c, _)| *c).nfc().map(|c| {
        let own = &origins[at..(at + parts(c)).min(origins.len())];
        at += own.len();
        let start = own.iter().map(|origin| origin.start).min().unwrap_or_default();
        (c, start..own.iter().map(|origin| origin.end).max().unwrap_or(start))
    });
    composed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Clean; 3] = [Clean::CollapseWhitespace, Clean::Strip, Clean::Lowercase];

    #[test]
    fn clean_ups_run_in_order_and_know_where_things_were() {
        let prompt = "\u{3000} A \t\n CAT ";
        assert_eq!(clean(prompt, &[]).text(), prompt);
        assert_eq!(clean(prompt, &[Clean::CollapseWhitespace]).text(), " A CAT ");
        assert_eq!(clean(prompt, &[Clean::Strip]).text(), "A \t\n CAT");
        let cleaned = clean(prompt, &ALL);
        assert_eq!(cleaned.text(), "a cat");
        assert_eq!(&prompt[cleaned.origin(2..5)], "CAT");
        assert_eq!(&prompt[cleaned.origin(1..2)], " \t\n ");
        assert_eq!(clean(" \n", &ALL).text(), "");
        assert_eq!(clean(" \n", &ALL).origin(0..0), 0..0);
    }

    #[test]
    fn letters_that_grow_keep_their_origin() {
        // A dotted capital I becomes two characters, a sigma at a word's end another one than inside.
        let prompt = "İX ΣΑΣ";
        let cleaned = clean(prompt, &[Clean::Lowercase]);
        assert_eq!(cleaned.text(), prompt.to_lowercase());
        let x = cleaned.text().find('x').unwrap();
        assert_eq!(&prompt[cleaned.origin(x..x + 1)], "X");
    }

    /// What Python's `html.unescape(html.unescape(text))` gives.
    #[test]
    fn html_references_are_taken_twice() {
        let unescaped = |text| clean(text, &[Clean::HtmlUnescape]);
        for (text, expected) in [
            ("a &amp; b", "a & b"),
            ("&amp;lt;b&amp;gt;", "<b>"),
            ("caf&eacute; &#29483;&#x1F431;", "café 猫🐱"),
            ("rock&nbsproll &copy 2024", "rock\u{a0}roll © 2024"),
            ("AT&T, R&D && no &reference;", "AT&T, R&D && no &reference;"),
            ("&", "&"),
        ] {
            assert_eq!(unescaped(text).text(), expected, "{text}");
        }
        let text = "a &amp;lt; cat";
        let cleaned = unescaped(text);
        assert_eq!(&text[cleaned.origin(2..3)], "&amp;lt;");
        assert_eq!(&text[cleaned.origin(4..7)], "cat");
    }

    /// What ftfy 6.3.1 gives.
    #[test]
    fn text_is_fixed_as_ftfy_fixes_it() {
        let fixed = |text| clean(text, &[Clean::FixText]);
        for (text, expected) in [
            ("“雪地，猫”——‘ok’", "\"雪地,猫\"——'ok'"),
            ("ＬＯＵＤ　ｎｏｉｓｅｓ！", "LOUD noises!"),
            ("ﾊﾝｶｸ ﾀﾞ", "ハンカク ダ"),
            ("ﬂuﬃest ŉ ǆ ﬅ", "fluffiest 'n dž ſt"),
            ("a\r\nb\rc\u{2028}d", "a\nb\nc\nd"),
            ("a\u{0}b\u{feff}c\u{7}", "abc"),
            ("cafe\u{301} \u{1112}\u{1161}\u{11ab}", "café 한"),
            ("12\u{b3} µ ½ …", "12³ µ ½ …"),
        ] {
            assert_eq!(fixed(text).text(), expected, "{text:?}");
        }
        let text = "cafe\u{301}，ﬁsh";
        let cleaned = fixed(text);
        assert_eq!(cleaned.text(), "café,fish");
        assert_eq!(&text[cleaned.origin(3..5)], "e\u{301}");
        assert_eq!(&text[cleaned.origin(5..6)], "，");
        assert_eq!(&text[cleaned.origin(6..8)], "ﬁ");
    }
}
