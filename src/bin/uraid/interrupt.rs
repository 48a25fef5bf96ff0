//! Ctrl-C and its relatives, turned into a question that long work asks between two steps.
//!
//! The first signal asks for a clean stop. The second ends the process at once: whoever presses twice means
//! it, and the disks are as safe then as in a crash.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use uraid::ErrorKind;

use crate::failure::{Failure, Outcome};

/// Watches for signals from its making to the end of the process.
#[derive(Clone)]
pub(crate) struct Interrupt {
    signal: Arc<AtomicUsize>,
}

impl Interrupt {
    /// Starts to watch.
    pub(crate) fn watch() -> Outcome<Interrupt> {
        let signal = Arc::new(AtomicUsize::new(0));
        let asked_before = Arc::new(AtomicBool::new(false));
        for number in [SIGINT, SIGTERM, SIGHUP] {
            // In this order: the first signal finds the flag down and raises it, the second finds it up.
            flag::register_conditional_shutdown(number, 128 + number, Arc::clone(&asked_before))
                .and_then(|_| flag::register(number, Arc::clone(&asked_before)))
                .and_then(|_| flag::register_usize(number, Arc::clone(&signal), number as usize))
                .map_err(|error| Failure::of(ErrorKind::Io, format!("cannot watch for signals: {error}")))?;
        }
        Ok(Interrupt { signal })
    }

    /// The signal that came, if one did.
    pub(crate) fn caught(&self) -> Option<i32> {
        match self.signal.load(Ordering::Relaxed) {
            0 => None,
            signal => i32::try_from(signal).ok(),
        }
    }

    /// An error once a signal has come.
    pub(crate) fn check(&self) -> Outcome {
        match self.caught() {
            None => Ok(()),
            Some(signal) => Err(Failure::interrupted(signal, "interrupted")),
        }
    }
}
