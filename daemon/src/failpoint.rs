//! Places where a test can make the real daemon end at once, fail or wait. A release build has none of it.
//!
//! In a build with debug assertions the variable `SLUICED_FAILPOINTS` names a file, which is read at every place, so that
//! a test can change it while the daemon runs. Each of its lines is `PLACE = ACTION` or `PLACE = ACTION @ N`: the action is
//! taken at each visit, or only at the Nth since the file has had that text.
//!
//! | action | what happens |
//! |---|---|
//! | `abort` | the process ends at once, as with kill -9: nothing is flushed, nothing is dropped |
//! | `full`, `read-only` | what is tried there fails with that error of the system |
//! | `wait MS` | the thread sleeps |
//!
//! A line `clock = MS` sets the clock so many milliseconds forward, or back when the number is negative.
//!
//! That this is one for the whole process, and no value that is passed to every part, is on purpose: the parts look as if
//! it were not there.

use std::io;

macro_rules! places {
    ($($(#[doc = $doc:literal])+ $place:ident = $name:literal,)+) => {
        /// A place in the daemon's work where a crash or a failure is worth a test.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Place { $($(#[doc = $doc])+ $place,)+ }

        impl Place {
            /// Every place.
            pub const ALL: &'static [Self] = &[$(Self::$place,)+];

            /// Its name in the file.
            pub fn name(self) -> &'static str {
                match self { $(Self::$place => $name,)+ }
            }
        }
    };
}

places! {
    /// A receiver has answered; nothing of it is recorded.
    Answered = "deliver.answered",
    /// A parked delivery was taken from the store for its next attempt.
    DueTaken = "deliver.due_taken",
    /// A subscription is held in memory; its position is not written.
    Held = "hold.begun",
    /// A position is durable; the acknowledgements that waited for it are not released.
    PositionSaved = "hold.position_saved",
    /// A subscription reads live again in memory; its position is still in the store.
    Rejoined = "hold.rejoined",
    /// The file of a large body is written; no record points to it.
    BodyWritten = "store.body_written",
    /// A group of changes is put together; nothing of it is written.
    BeforeWrite = "store.before_write",
    /// A new partition of the log exists, without an entry.
    PartitionBegun = "store.partition_begun",
    /// A group is written; nothing makes it durable.
    BeforeFlush = "store.before_flush",
    /// A group was handed to the kernel; the file is not synced.
    BeforeSync = "store.before_sync",
    /// A group is durable; nobody knows.
    Flushed = "store.flushed",
    /// An old partition is about to be dropped.
    Expiring = "store.expiring",
    /// The database is about to be opened, at the start or after a failure.
    Opening = "store.opening",
    /// A step of bringing an older store up to date is about to be written: some entries, the format's number, or the file
    /// that repeats it.
    Migrating = "store.migrating",
    /// A subscription's registration is about to be written.
    Registering = "register.before_write",
    /// A subscription is registered; it has no place in the routes.
    Registered = "register.written",
    /// Acknowledgements are released; none is sent.
    BeforeAck = "ingest.before_ack",
    /// The consumer asks for the event types of a changed set of subscriptions; the set is still the old one.
    Retargeted = "ingest.retargeted",
}

/// Comes to a place where something can fail.
///
/// # Errors
/// When a test asks for it.
#[inline]
pub fn reach(place: Place) -> io::Result<()> {
    if cfg!(debug_assertions) { armed::act(place) } else { Ok(()) }
}

/// Comes to a place where nothing can fail: an error that a test asks for is passed over.
#[inline]
pub fn pass(place: Place) {
    drop(reach(place));
}

/// How many milliseconds a test has set the clock forward.
#[inline]
pub fn clock_offset_ms() -> i64 {
    if cfg!(debug_assertions) { armed::clock_offset_ms() } else { 0 }
}

mod armed {
    use std::fs;
    use std::io;
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::time::Duration;

    use parking_lot::Mutex;
    use rustix::io::Errno;

    use super::Place;

    /// How often each place was visited since the file has had its text.
    struct Visits {
        text: String,
        by_place: [u64; Place::ALL.len()],
    }

    #[derive(Debug, PartialEq, Eq)]
    pub(super) enum Action {
        Abort,
        Fail(Errno),
        Wait(Duration),
    }

    static VISITS: Mutex<Visits> = Mutex::new(Visits { text: String::new(), by_place: [0; Place::ALL.len()] });

    /// What the file says; nothing when there is none, or when it cannot be read.
    fn text() -> Option<String> {
        static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
        let file = FILE.get_or_init(|| std::env::var_os("SLUICED_FAILPOINTS").map(PathBuf::from)).as_ref()?;
        fs::read_to_string(file).ok()
    }

    pub(super) fn act(place: Place) -> io::Result<()> {
        let Some(text) = text() else { return Ok(()) };
        let visit = {
            let mut visits = VISITS.lock();
            if visits.text != text {
                visits.text.clone_from(&text);
                visits.by_place = [0; Place::ALL.len()];
            }
            let visit = &mut visits.by_place[place as usize];
            *visit += 1;
            *visit
        };
        match asked(&text, place, visit) {
            None => Ok(()),
            Some(Action::Abort) => {
                tracing::warn!(place = place.name(), visit, "a test ends the process here");
                std::process::abort()
            }
            Some(Action::Fail(errno)) => Err(errno.into()),
            Some(Action::Wait(time)) => {
                std::thread::sleep(time);
                Ok(())
            }
        }
    }

    pub(super) fn clock_offset_ms() -> i64 {
        text().and_then(|text| setting(&text, "clock")?.parse().ok()).unwrap_or(0)
    }

    fn setting<'a>(text: &'a str, name: &str) -> Option<&'a str> {
        text.lines()
            .find_map(|line| Some(line.split_once('=')?).filter(|(key, _)| key.trim() == name))
            .map(|(_, v)| v.trim())
    }

    /// What a text asks for at the nth visit of a place.
    pub(super) fn asked(text: &str, place: Place, visit: u64) -> Option<Action> {
        let mut words = setting(text, place.name())?.split_whitespace();
        let action = match words.next()? {
            "abort" => Action::Abort,
            "full" => Action::Fail(Errno::NOSPC),
            "read-only" => Action::Fail(Errno::ROFS),
            "wait" => Action::Wait(Duration::from_millis(words.next()?.parse().ok()?)),
            _ => return None,
        };
        match words.next() {
            None => Some(action),
            Some("@") => (words.next()?.parse() == Ok(visit)).then_some(action),
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::armed::{Action, asked};
    use super::*;

    #[test]
    fn a_file_says_what_happens_where_and_at_which_visit() {
        let text =
            "store.flushed = abort @ 3\nstore.opening = read-only\nnonsense\nclock = -5\ningest.before_ack = wait 20";
        assert_eq!(asked(text, Place::Flushed, 2), None);
        assert_eq!(asked(text, Place::Flushed, 3), Some(Action::Abort));
        assert_eq!(asked(text, Place::Flushed, 4), None);
        assert_eq!(asked(text, Place::Opening, 7), Some(Action::Fail(rustix::io::Errno::ROFS)));
        assert_eq!(asked(text, Place::BeforeAck, 1), Some(Action::Wait(std::time::Duration::from_millis(20))));
        assert_eq!(asked(text, Place::Answered, 1), None);
        assert_eq!(asked("store.opening = fly", Place::Opening, 1), None);
    }

    #[test]
    fn without_the_variable_nothing_happens() {
        for place in Place::ALL {
            assert!(reach(*place).is_ok(), "{}", place.name());
        }
        assert_eq!(clock_offset_ms(), 0);
    }
}
