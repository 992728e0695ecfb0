//! Prompts that come a line at a time, from a reader that may block for ever, as standard input does.

use std::collections::VecDeque;
use std::io::{BufRead, Read};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};

use latentflow::Cancel;

use crate::storyboard::{prompt_in_line, text_of};

/// Lines longer than this many bytes are refused: they are no prompts.
const LINE_LIMIT: u64 = 1 << 20;
/// As many prompts are read ahead.
const AHEAD: usize = 16;

/// A line that can't be a prompt, or a reader that failed: what is wrong, with the line's number.
pub type LineError = String;

/// What [`LineQueue::next`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// A prompt.
    Prompt(String),
    /// The reader failed, and there is no more.
    Failed(LineError),
    /// The reader is at its end.
    End,
    /// The wait was cancelled.
    Cancelled,
}

/// The prompts that a thread reads.
#[derive(Default)]
pub struct LineQueue {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    prompts: VecDeque<String>,
    failed: Option<LineError>,
    ended: bool,
}

impl LineQueue {
    /// Returns standard input's lines. A process has one standard input, so this is always the same queue.
    pub fn standard_input() -> Arc<Self> {
        static STANDARD_INPUT: LazyLock<Arc<LineQueue>> =
            LazyLock::new(|| LineQueue::read(|| std::io::stdin().lock()));
        STANDARD_INPUT.clone()
    }

    /// Returns the lines of what `open` opens, read by a thread that nothing waits for.
    fn read<R: BufRead>(open: impl FnOnce() -> R + Send + 'static) -> Arc<Self> {
        let lines = Arc::new(Self::default());
        let writer = lines.clone();
        std::thread::spawn(move || {
            let result = writer.fill(open());
            let mut queue = writer.lock();
            queue.ended = true;
            queue.failed = result.err();
            writer.changed.notify_all();
        });
        lines
    }

    fn fill(&self, mut reader: impl BufRead) -> Result<(), LineError> {
        let mut bytes = Vec::new();
        for number in 1u64.. {
            bytes.clear();
            let read = reader.by_ref().take(LINE_LIMIT).read_until(b'\n', &mut bytes);
            match read.map_err(|e| format!("line {number} can't be read: {e}"))? {
                0 => break,
                length if length as u64 == LINE_LIMIT => {
                    return Err(format!("line {number} is longer than {LINE_LIMIT} bytes"));
                }
                _ => (),
            }
            let Some(prompt) = prompt_in_line(text_of(&bytes, format_args!("line {number}"))?) else {
                continue;
            };
            let full = |queue: &mut Queue| queue.prompts.len() >= AHEAD;
            let mut queue =
                self.changed.wait_while(self.lock(), full).unwrap_or_else(PoisonError::into_inner);
            queue.prompts.push_back(prompt.to_owned());
            self.changed.notify_all();
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the next prompt, waiting for it until `cancel` is cancelled and [`wake`](Self::wake) called.
    pub fn next(&self, cancel: &Cancel) -> Next {
        let waiting = |queue: &mut Queue| queue.prompts.is_empty() && !queue.ended && !cancel.is_cancelled();
        let mut queue = self.changed.wait_while(self.lock(), waiting).unwrap_or_else(PoisonError::into_inner);
        if cancel.is_cancelled() {
            return Next::Cancelled;
        }
        self.changed.notify_all();
        match (queue.prompts.pop_front(), &queue.failed) {
            (Some(prompt), _) => Next::Prompt(prompt),
            (None, Some(error)) => Next::Failed(error.clone()),
            (None, None) => Next::End,
        }
    }

    /// Makes those who wait look whether they are cancelled.
    pub fn wake(&self) {
        let _queue = self.lock();
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufReader, Write};
    use std::time::Duration;

    fn all(bytes: &'static [u8]) -> Vec<Next> {
        let (lines, cancel) = (LineQueue::read(move || bytes), Cancel::new());
        let mut found = Vec::new();
        while !matches!(found.last(), Some(Next::End | Next::Failed(_))) {
            found.push(lines.next(&cancel));
        }
        found
    }

    fn prompt(text: &str) -> Next {
        Next::Prompt(text.into())
    }

    #[test]
    fn blank_lines_and_comments_are_no_prompts() {
        let lines = "a cat\r\n\n # no\n雪里的猫\nlast".as_bytes();
        assert_eq!(all(lines), [prompt("a cat"), prompt("雪里的猫"), prompt("last"), Next::End]);
        assert_eq!(all(b""), [Next::End]);
    }

    #[test]
    fn what_is_no_text_fails_after_what_was() {
        let failed = Next::Failed("line 2 is not UTF-8: save the text as UTF-8".into());
        assert_eq!(all(b"a cat\na d\xffg\na bird\n"), [prompt("a cat"), failed]);
    }

    #[test]
    fn more_than_is_read_ahead_comes_in_order() {
        let found = all(b"1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n13\n14\n15\n16\n17\n18\n19\n20\n");
        let expected: Vec<Next> = (1..=20).map(|n| prompt(&n.to_string())).chain([Next::End]).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_wait_ends_when_it_is_cancelled_though_nobody_writes() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let lines = LineQueue::read(move || BufReader::new(reader));
        let cancel = Cancel::new();
        let waiter = std::thread::spawn({
            let (lines, cancel) = (lines.clone(), cancel.clone());
            move || lines.next(&cancel)
        });
        std::thread::sleep(Duration::from_millis(20));
        cancel.cancel();
        lines.wake();
        assert_eq!(waiter.join().unwrap(), Next::Cancelled);
        // What is written later is there for the next to ask.
        cancel.reset();
        writeln!(writer, "a cat").unwrap();
        assert_eq!(lines.next(&cancel), prompt("a cat"));
        drop(writer);
        assert_eq!(lines.next(&cancel), Next::End);
    }
}
