//! Files of prompts: lines, SubRip and WebVTT, read into cues that follow each other without a gap.

use std::io::Read;
use std::path::{Path, PathBuf};

use latentflow::{Error, Result};

use crate::markup;

/// Larger files than this many bytes are refused: they are no storyboards.
const FILE_LIMIT: u64 = 16 << 20;

/// A prompt and its span in the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cue {
    /// When it begins.
    pub start: gst::ClockTime,
    /// When the next one begins, or the video ends.
    pub end: gst::ClockTime,
    /// The prompt, on one line, without markup.
    pub prompt: String,
}

/// Prompts in the order of their spans, from 0 on, without a gap between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storyboard(Vec<Cue>);

impl Storyboard {
    /// Returns the prompts of the file at `path`: subtitles if it is called `.srt` or `.vtt`, else a prompt a line, the
    /// one with index `n` beginning at `line_start(n)`.
    ///
    /// # Errors
    /// [`Error::NotFound`] and [`Error::Package`] name the file, and the line or cue that can't be read.
    pub fn read(path: &Path, line_start: impl Fn(u64) -> gst::ClockTime) -> Result<Self> {
        let text = read_text(path)?;
        let cues = match Format::of(path) {
            Format::SubRip => cues(parse_srt(&text)),
            Format::WebVtt => cues(parse_vtt(&text)),
            Format::Lines => lines(&text, line_start),
        };
        cues.map(Self).map_err(|reason| wrong(path, reason))
    }

    /// Returns whether the file at `path` is one of subtitles, which says when each prompt is on.
    pub fn has_times(path: &Path) -> bool {
        Format::of(path) != Format::Lines
    }

    /// Returns the cue with index `index`.
    pub fn get(&self, index: usize) -> Option<&Cue> {
        self.0.get(index)
    }

    /// Returns the index of the cue that covers `position`; past the end, the number of cues.
    pub fn index_at(&self, position: gst::ClockTime) -> usize {
        self.0.partition_point(|cue| cue.end <= position)
    }

    /// Returns when the last cue ends.
    pub fn duration(&self) -> gst::ClockTime {
        self.0.last().map_or(gst::ClockTime::ZERO, |cue| cue.end)
    }
}

/// What a file of prompts is, by its name.
#[derive(Debug, PartialEq, Eq)]
enum Format {
    SubRip,
    WebVtt,
    Lines,
}

impl Format {
    fn of(path: &Path) -> Self {
        match path.extension().map(|e| e.to_string_lossy().to_lowercase()).as_deref() {
            Some("srt") => Self::SubRip,
            Some("vtt") => Self::WebVtt,
            _ => Self::Lines,
        }
    }
}

fn wrong(path: &Path, reason: impl ToString) -> Error {
    Error::Package { path: path.to_owned(), reason: reason.to_string() }
}

fn read_text(path: &Path) -> Result<String> {
    let file = std::fs::File::open(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::NotFound {
            path: PathBuf::from(path),
            reason: "`location` takes a file of prompts (text, .srt or .vtt), or - for standard input".into(),
        },
        _ => wrong(path, e),
    })?;
    let mut bytes = Vec::new();
    file.take(FILE_LIMIT + 1).read_to_end(&mut bytes).map_err(|e| wrong(path, e))?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(wrong(
            path,
            format!("it is larger than {FILE_LIMIT} bytes, which no file of prompts is"),
        ));
    }
    if let [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] = bytes[..] {
        return utf16(&bytes).ok_or_else(|| wrong(path, "it begins as UTF-16 does, and is not"));
    }
    let lines = bytes.split_inclusive(|byte| *byte == b'\n').zip(1..);
    let lines = lines.map(|(line, number)| text_of(line, format_args!("line {number}")));
    lines.collect::<Result<String, _>>().map_err(|reason| wrong(path, reason))
}

/// Returns the text of `source`, a line for example.
///
/// # Errors
/// It says what is wrong with it, and the cure.
pub fn text_of(bytes: &[u8], source: impl std::fmt::Display) -> Result<&str, String> {
    let wrong = |what: &str| format!("{source} {what}: save the text as UTF-8");
    let text = std::str::from_utf8(bytes).map_err(|_| wrong("is not UTF-8"))?;
    if text.contains('\0') {
        return Err(wrong("holds a zero byte, as no text in UTF-8 does"));
    }
    Ok(text)
}

/// Returns the text in `bytes` of UTF-16, which begin with a mark of their order.
fn utf16(bytes: &[u8]) -> Option<String> {
    let unit = match bytes[0] {
        0xFF => u16::from_le_bytes,
        _ => u16::from_be_bytes,
    };
    let units = bytes.chunks(2).map(|pair| pair.try_into().map(unit).ok());
    String::from_utf16(&units.collect::<Option<Vec<_>>>()?).ok()
}

/// Returns the prompt in a line, if it is neither blank nor a comment.
pub fn prompt_in_line(line: &str) -> Option<&str> {
    let line = line.trim_start_matches('\u{feff}').trim();
    (!line.is_empty() && !line.starts_with('#')).then_some(line)
}

/// Returns `text` on one line, with single spaces.
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn lines(text: &str, start: impl Fn(u64) -> gst::ClockTime) -> Result<Vec<Cue>, String> {
    let prompts = text.lines().filter_map(prompt_in_line);
    let cue =
        |(n, prompt): (u64, &str)| Cue { start: start(n), end: start(n + 1), prompt: prompt.to_owned() };
    let cues: Vec<Cue> = (0..).zip(prompts).map(cue).collect();
    if cues.is_empty() {
        return Err("it holds no prompt: every line is blank or a comment".into());
    }
    Ok(cues)
}

/// A cue as its file has it: start and end in milliseconds, text.
type RawCue = (u64, u64, Vec<String>);

/// What the parser of subtitles is strict about and files are not: marks of byte order, blanks around lines, a missing
/// end of line, positions behind the times, how times are written, a note's first line without a note. Lines stay where they are,
/// for messages; an arrow after anything but a time is text.
fn tidy(text: &str, point: char) -> Result<String, String> {
    let mut tidy = String::with_capacity(text.len() + 2);
    let mut lines = (1..).zip(text.trim_start_matches('\u{feff}').lines().map(str::trim)).peekable();
    while let Some((number, line)) = lines.next() {
        if let Some((start, rest)) = line.split_once("-->").filter(|(start, _)| is_like_a_time(start)) {
            let end = rest.split_whitespace().next().unwrap_or_default();
            let time = |text: &str| {
                let wrong = || format!("line {number}: `{text}` is no time; write 00:01:02.500");
                time(text).map(|time| time.replace('.', &point.to_string())).ok_or_else(wrong)
            };
            tidy.push_str(&format!("{} --> {}", time(start.trim())?, time(end)?));
            if lines.peek().is_none_or(|(_, next)| next.is_empty()) {
                return Err(format!(
                    "the cue in line {number} holds no prompt; write one, or delete the cue"
                ));
            }
        } else if line == "NOTE" && point == '.' {
            while lines.next_if(|(_, line)| !line.is_empty()).is_some() {
                tidy.push('\n');
            }
        } else {
            tidy.push_str(line);
        }
        tidy.push('\n');
    }
    Ok(tidy)
}

/// Returns whether `text` is meant for a time.
fn is_like_a_time(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
        && text.contains(':')
        && !text.trim().contains(char::is_whitespace)
}

/// Returns a time as hours, minutes and seconds of two digits and milliseconds of three: hours and trailing digits may be missing, and a comma may be a dot.
fn time(text: &str) -> Option<String> {
    let (whole, fraction) = text.split_once(['.', ',']).unwrap_or((text, "0"));
    let fields: Vec<u8> = whole.split(':').map(|field| field.parse().ok()).collect::<Option<_>>()?;
    let [hours, minutes, seconds] = match fields[..] {
        [minutes, seconds] => [0, minutes, seconds],
        [hours, minutes, seconds] => [hours, minutes, seconds],
        _ => return None,
    };
    let digits = fraction.len() <= 9 && fraction.bytes().all(|byte| byte.is_ascii_digit());
    (digits && minutes < 60 && seconds < 60)
        .then(|| format!("{hours:02}:{minutes:02}:{seconds:02}.{fraction:0<3.3}"))
}

/// Returns whether a line of a cue's text is what a cue begins with.
fn are_times(line: &str) -> bool {
    let both = line.split_once("-->").map(|(start, end)| [start.trim(), end.trim()]);
    both.is_some_and(|both| both.into_iter().all(|text| time(text).is_some()))
}

fn parse_srt(text: &str) -> Result<Vec<RawCue>, String> {
    let srt = subtp::srt::SubRip::parse(&tidy(text, ',')?).map_err(|e| syntax(&e))?;
    let millis = |t: subtp::srt::SrtTimestamp| millis(t.hours, t.minutes, t.seconds, t.milliseconds);
    Ok(srt.subtitles.into_iter().map(|cue| (millis(cue.start), millis(cue.end), cue.text)).collect())
}

fn parse_vtt(text: &str) -> Result<Vec<RawCue>, String> {
    let vtt = subtp::vtt::WebVtt::parse(&tidy(text, '.')?).map_err(|e| syntax(&e))?;
    let millis = |t: subtp::vtt::VttTimestamp| millis(t.hours, t.minutes, t.seconds, t.milliseconds);
    let cues = vtt.blocks.into_iter().filter_map(|block| match block {
        subtp::vtt::VttBlock::Que(cue) => Some(cue),
        _ => None,
    });
    Ok(cues.map(|cue| (millis(cue.timings.start), millis(cue.timings.end), cue.payload)).collect())
}

fn syntax(error: &subtp::ParseError) -> String {
    let line = error.location.split(':').next().unwrap_or_default();
    format!("line {line} breaks the subtitles' form: expected {}", error.expected)
}

fn millis(hours: u8, minutes: u8, seconds: u8, milliseconds: u16) -> u64 {
    ((u64::from(hours) * 60 + u64::from(minutes)) * 60 + u64::from(seconds)) * 1000 + u64::from(milliseconds)
}

/// Each cue lasts until the next one begins and the first begins at 0, so that there is a prompt at any time.
fn cues(raw: Result<Vec<RawCue>, String>) -> Result<Vec<Cue>, String> {
    let mut cues = Vec::new();
    for ((start, end, text), number) in raw?.into_iter().zip(1..) {
        if end < start {
            return Err(format!("cue {number} ends at {end} ms, and begins later, at {start} ms"));
        }
        if let Some(times) = text.iter().find(|line| are_times(line)) {
            return Err(format!(
                "cue {number} holds the times `{times}`; put a blank line before the next cue"
            ));
        }
        let prompt = one_line(&markup::strip(&text.join(" ")));
        if prompt.is_empty() {
            return Err(format!("cue {number} holds no prompt"));
        }
        let time = gst::ClockTime::from_mseconds;
        cues.push((number, Cue { start: time(start), end: time(end), prompt }));
    }
    cues.sort_by_key(|(_, cue)| cue.start);
    let mut neighbours = cues.iter().zip(cues.iter().skip(1));
    if let Some(((first, cue), (second, _))) = neighbours.find(|(a, b)| a.1.start == b.1.start) {
        return Err(format!("cues {first} and {second} both begin at {}", cue.start));
    }
    let end = cues.iter().map(|(_, cue)| cue.end).max();
    if let Some((number, cue)) = cues.last().filter(|(_, cue)| Some(cue.start) == end) {
        return Err(format!("cue {number} begins at {}, where all end", cue.start));
    }
    let mut cues: Vec<Cue> = cues.into_iter().map(|(_, cue)| cue).collect();
    for index in 1..cues.len() {
        cues[index - 1].end = cues[index].start;
    }
    if let (Some(last), Some(end)) = (cues.last_mut(), end) {
        last.end = end;
    }
    match cues.first_mut() {
        Some(first) => first.start = gst::ClockTime::ZERO,
        None => return Err("it holds no cue".into()),
    }
    Ok(cues)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, content: &[u8]) -> Result<Storyboard, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        let board = Storyboard::read(&path, |n| n * 2 * gst::ClockTime::SECOND);
        board.map_err(|e| e.to_string()).inspect_err(|e| assert!(e.contains(name), "{e}"))
    }

    fn spans(board: &Storyboard) -> Vec<(u64, u64, &str)> {
        board.0.iter().map(|c| (c.start.mseconds(), c.end.mseconds(), c.prompt.as_str())).collect()
    }

    #[test]
    fn lines_follow_each_other() {
        let text = "\u{feff}a cat\r\n\n# a comment\n  雪里的猫  \nno end of line";
        let board = read("prompts.txt", text.as_bytes()).unwrap();
        let expected = [(0, 2000, "a cat"), (2000, 4000, "雪里的猫"), (4000, 6000, "no end of line")];
        assert_eq!(spans(&board), expected);
        assert_eq!(board.duration(), gst::ClockTime::from_seconds(6));
        assert!(read("prompts.txt", b"\n# nothing\n\n").unwrap_err().contains("no prompt"));
        assert!(read("prompts.txt", b"").is_err());
    }

    #[test]
    fn cues_last_until_the_next_begins_and_the_first_begins_at_once() {
        let text = "1\n00:00:01,000 --> 00:00:02,500\n<i>a cat</i>\nin the snow\n\n\
                    2\n00:00:04,000 --> 00:00:09,000\n{\\an8}一只猫 &amp; a dog\n\n\
                    3\n00:00:06,000 --> 00:00:08,000\na bird\n";
        let board = read("story.srt", text.as_bytes()).unwrap();
        let expected =
            [(0, 4000, "a cat in the snow"), (4000, 6000, "一只猫 & a dog"), (6000, 9000, "a bird")];
        assert_eq!(spans(&board), expected, "the last one until all have ended");
        let at = |ms| board.index_at(gst::ClockTime::from_mseconds(ms));
        assert_eq!([at(0), at(3999), at(4000), at(8999), at(9000), at(9999)], [0, 0, 1, 2, 3, 3]);
    }

    #[test]
    fn webvtt_is_read_with_its_settings_and_notes() {
        let text = "WEBVTT - a story\n\nNOTE not a prompt\n\nintro\n00:01.000 --> 00:03.000 align:start size:50%\n\
                    <v Narrator>a cat <00:02.000>runs</v>\n\n00:00:03.000 --> 00:00:05.000\na dog";
        let board = read("story.VTT", text.as_bytes()).unwrap();
        assert_eq!(spans(&board), [(0, 3000, "a cat runs"), (3000, 5000, "a dog")]);
    }

    #[test]
    fn what_players_forgive_is_forgiven() {
        let text = "\u{feff}1\r\n00:00:00.000-->00:00:01.000  X1:1 X2:2 Y1:3 Y2:4\r\n  a cat \r\n \r\n\r\n\
                    2\r\n00:00:01,000 --> 00:00:02,000\r\na dog";
        let board = read("story.srt", text.as_bytes()).unwrap();
        assert_eq!(spans(&board), [(0, 1000, "a cat"), (1000, 2000, "a dog")]);
        let marked = |bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
            "\u{feff}一只猫\na dog".encode_utf16().flat_map(bytes).collect()
        };
        for utf16 in [marked(u16::to_le_bytes), marked(u16::to_be_bytes)] {
            assert_eq!(spans(&read("a.txt", &utf16).unwrap()), [(0, 2000, "一只猫"), (2000, 4000, "a dog")]);
        }
        let instant = "1\n00:00:00,000 --> 00:00:00,000\na cat\n\n2\n00:00:01,000 --> 00:00:02,000\na dog\n";
        assert_eq!(
            spans(&read("story.srt", instant.as_bytes()).unwrap()),
            [(0, 1000, "a cat"), (1000, 2000, "a dog")]
        );
        for (srt, times) in
            [("0:00:01,5 --> 0:00:02", (1500, 2000)), ("00:01.25 --> 00:03,000", (1250, 3000))]
        {
            let text = format!("1\n0:0:0,0 --> 0:0:1,0\na cat\n\n2\n{srt}\na dog\n");
            assert_eq!(
                spans(&read("story.srt", text.as_bytes()).unwrap()),
                [(0, times.0, "a cat"), (times.0, times.1, "a dog")]
            );
        }
        let notes = "WEBVTT\n\nNOTE\nnot a prompt\nat all\n\n0:00.000 --> 0:01.000\na cat\n\nNOTE\n\n0:01.0 --> 0:02.0\na dog\n";
        assert_eq!(
            spans(&read("story.vtt", notes.as_bytes()).unwrap()),
            [(0, 1000, "a cat"), (1000, 2000, "a dog")]
        );
        let arrow = "1\n00:00:00,000 --> 00:00:01,000\na cat --> a dog, v1.2 of it\n";
        let board = read("story.srt", arrow.as_bytes()).unwrap();
        assert_eq!(spans(&board), [(0, 1000, "a cat --> a dog, v1.2 of it")]);
        let unordered = "1\n00:00:02,000 --> 00:00:03,000\nb\n\n2\n00:00:00,000 --> 00:00:01,000\na\n";
        assert_eq!(
            spans(&read("story.srt", unordered.as_bytes()).unwrap()),
            [(0, 2000, "a"), (2000, 3000, "b")]
        );
    }

    #[test]
    fn a_broken_file_is_refused_with_the_place() {
        let refuse = |name: &str, text: &str, part: &str| {
            let error = read(name, text.as_bytes()).unwrap_err();
            assert!(error.contains(part), "{error}");
        };
        let good = "1\n00:00:00,000 --> 00:00:01,000\na cat\n\n";
        refuse(
            "a.srt",
            &format!("{good}2\n00:00:xx,000 --> 00:00:02,000\na dog\n"),
            "line 6: `00:00:xx,000`",
        );
        refuse("a.vtt", "WEBVTT\n\n00:61.0 --> 01:02.0\na cat\n", "line 3: `00:61.0` is no time");
        refuse("a.srt", &format!("{good}2\n00:00:01,000 --> 00:00:02,000\n\n"), "line 6 holds no prompt");
        refuse("a.srt", &format!("{good}2\n00:00:03,000 --> 00:00:02,000\na dog\n"), "cue 2 ends at 2000 ms");
        refuse(
            "a.srt",
            &format!("{good}2\n00:00:01,000 --> 00:00:02,000\n<i></i>\n"),
            "cue 2 holds no prompt",
        );
        refuse(
            "a.srt",
            &format!("{good}2\n00:00:00,000 --> 00:00:02,000\na dog\n"),
            "cues 1 and 2 both begin",
        );
        refuse(
            "a.srt",
            "1\n00:00:00,000 --> 00:00:01,000\na cat\n2\n00:00:01,000-->00:00:02,000\na dog\n",
            "cue 1 holds the times `00:00:01,000 --> 00:00:02,000`",
        );
        refuse("a.srt", "", "no cue");
        refuse("a.vtt", "WEBVTT\n", "line 2 ");
        refuse("a.vtt", "00:01.000 --> 00:03.000\na cat\n", "line 1 ");
        refuse(
            "a.srt",
            &format!("{good}2\n00:00:01,000 --> 00:00:01,000\na dog\n"),
            "cue 2 begins at 0:00:01.000000000, where all end",
        );
        assert!(read("a.txt", b"\xff\xfea").unwrap_err().contains("UTF-16"));
        let error = read("a.txt", b"a cat\na d\xffg\n").unwrap_err();
        assert!(error.contains("line 2 is not UTF-8: save the text as UTF-8"), "{error}");
        let error = read("a.txt", b"c\0a\0t\0").unwrap_err();
        assert!(error.contains("line 1 holds a zero byte"), "{error}");
    }

    #[test]
    fn a_file_that_is_none_is_named() {
        let error = Storyboard::read(Path::new("does/not/exist.srt"), |_| gst::ClockTime::ZERO).unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{error}");
        assert!(error.to_string().contains("does/not/exist.srt"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        assert!(Storyboard::read(folder.path(), |_| gst::ClockTime::ZERO).is_err());
    }
}
