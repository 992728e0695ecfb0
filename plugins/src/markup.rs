//! The markup of subtitles and of Pango, taken off.

/// Returns `text` without tags (`<i>`, `</v>`, `<00:01.000>`) and overrides (`{\an8}`), its entities as characters.
///
/// A `<` that begins no tag stays.
pub fn strip(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['<', '{', '&']) {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        let (replacement, length) = tag(rest).or_else(|| entity(rest)).unwrap_or((rest.chars().next(), 1));
        plain.extend(replacement);
        rest = &rest[length..];
    }
    plain.push_str(rest);
    plain
}

/// Returns the length of the tag or override that `text` begins with, and nothing in its place.
fn tag(text: &str) -> Option<(Option<char>, usize)> {
    let is_time = |tag: &str| tag.bytes().all(|byte| byte.is_ascii_digit() || b":.".contains(&byte));
    let close = match text.as_bytes() {
        [b'<', b'/', ..] => '>',
        [b'<', c, ..] if c.is_ascii_alphanumeric() => '>',
        [b'{', b'\\', ..] => '}',
        _ => return None,
    };
    let end = text.find(close)?;
    // What begins with a digit is a time, or "<3".
    (!text[1..].starts_with(|c: char| c.is_ascii_digit()) || is_time(&text[1..end]))
        .then_some((None, end + 1))
}

/// Returns the character of the entity that `text` begins with, and the entity's length.
fn entity(text: &str) -> Option<(Option<char>, usize)> {
    let name = text.strip_prefix('&')?;
    // The longest is `&#x10ffff;`.
    let end = name.bytes().take(10).position(|byte| byte == b';')?;
    let name = &name[..end];
    let character = match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => ' ',
        "lrm" | "rlm" => return Some((None, end + 2)),
        _ => {
            let number = name.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16),
                None => number.parse(),
            };
            char::from_u32(code.ok()?).filter(|character| *character != '\0')?
        }
    };
    Some((Some(character), end + 2))
}

#[cfg(test)]
mod tests {
    use super::strip;

    #[test]
    fn tags_and_overrides_go() {
        assert_eq!(strip("<i>a <b>cat</b></i>"), "a cat");
        assert_eq!(strip("<font color=\"red\">一只猫</font>"), "一只猫");
        assert_eq!(strip("<v Narrator>a cat <00:00:02.000>runs"), "a cat runs");
        assert_eq!(strip("{\\an8}a cat{\\i0}"), "a cat");
    }

    #[test]
    fn entities_become_characters() {
        assert_eq!(strip("a &lt;cat&gt; &amp; a dog&#39;s &#x732b;&lrm;"), "a <cat> & a dog's 猫");
        assert_eq!(strip("&amp;lt;"), "&lt;");
    }

    #[test]
    fn what_is_no_markup_stays() {
        for text in [
            "2 < 3 > 1",
            "I <3 cats, dogs > birds",
            "a {cat} & a dog",
            "&unknown; &#xffffffff; &#0; &;",
            "<",
            "&",
            "<i",
            "{\\",
            "a<",
            "&猫猫猫猫;",
        ] {
            assert_eq!(strip(text), text);
        }
    }
}
