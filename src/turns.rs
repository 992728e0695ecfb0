//! Turns of those who share something.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::runtime::{Cancel, lock};

/// Who has the turn, and who waits for it.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    taken: Mutex<bool>,
    free: Condvar,
}

/// The turn of one of those who share a package and keep no graph open; it ends when it is dropped.
#[derive(Debug)]
pub struct Turn<'a>(&'a Turns);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *lock(&self.0.taken) = false;
        self.0.free.notify_one();
    }
}

impl Turns {
    /// Waits for the turn.
    ///
    /// # Errors
    /// [`Error::Cancelled`] after [`Cancel::cancel`].
    pub fn wait(&self, cancel: &Cancel) -> Result<Turn<'_>> {
        // Who cancels does not know of this wait, hence looks at short intervals.
        const INTERVAL: Duration = Duration::from_millis(20);
        let mut taken = lock(&self.taken);
        loop {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            if !*taken {
                *taken = true;
                return Ok(Turn(self));
            }
            taken = self.free.wait_timeout(taken, INTERVAL).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_taken_one_at_a_time_and_a_wait_can_be_cancelled() {
        let turns = Turns::default();
        let (cancel, other) = (Cancel::new(), Cancel::new());
        let first = turns.wait(&cancel).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| turns.wait(&other).map(drop));
            other.cancel();
            assert!(matches!(waiting.join().unwrap(), Err(Error::Cancelled)));
            let waiting = scope.spawn(|| turns.wait(&cancel).map(drop));
            drop(first);
            waiting.join().unwrap().unwrap();
        });
    }
}
