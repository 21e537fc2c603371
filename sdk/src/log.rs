//! Lines to the daemon's log. Natively, in the author's tests, they go to standard error.

use std::fmt;

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// For the plugin's author, while writing it.
    Debug,
    /// Worth knowing.
    Info,
    /// Something is odd, and the plugin went on.
    Warn,
    /// Something failed.
    Error,
}

/// Writes a line to the daemon's log, with the plugin's and the subscription's name. Lines beyond the daemon's rate limit
/// are dropped and counted. The macros call it.
pub fn write(level: Level, message: fmt::Arguments<'_>) {
    #[cfg(target_family = "wasm")]
    crate::bindings::log(level, &message.to_string());
    #[cfg(not(target_family = "wasm"))]
    eprintln!("{level:?}: {message}");
}

/// Logs a line at a [`Level`]: `log!(Level::Info, "{} items", n)`.
#[macro_export]
macro_rules! log {
    ($level:expr, $($message:tt)+) => {
        $crate::log::write($level, ::core::format_args!($($message)+))
    };
}

/// Logs a line for the plugin's author.
#[macro_export]
macro_rules! debug {
    ($($message:tt)+) => { $crate::log!($crate::log::Level::Debug, $($message)+) };
}

/// Logs a line that is worth knowing.
#[macro_export]
macro_rules! info {
    ($($message:tt)+) => { $crate::log!($crate::log::Level::Info, $($message)+) };
}

/// Logs that something is odd.
#[macro_export]
macro_rules! warn {
    ($($message:tt)+) => { $crate::log!($crate::log::Level::Warn, $($message)+) };
}

/// Logs that something failed.
#[macro_export]
macro_rules! error {
    ($($message:tt)+) => { $crate::log!($crate::log::Level::Error, $($message)+) };
}
